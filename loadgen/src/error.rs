//! Errors of a load.

/// The reason why a load has no report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The plan or the settings are contradictory.
    #[error("{0}")]
    Plan(String),
    /// No connection could be opened.
    #[error("cannot connect to {target}: {reason}")]
    Unreachable {
        /// The server, as `host:port`.
        target: String,
        /// The error of the operating system.
        reason: String,
    },
    /// The server does not have the model.
    #[error("{target} has no model {model:?}: {body}")]
    NoModel {
        /// The server, as `host:port`.
        target: String,
        /// The requested model.
        model: String,
        /// The body of the server's answer.
        body: String,
    },
    /// A request that the run depends on failed.
    #[error("{target} {problem}")]
    Unanswered {
        /// The server, as `host:port`.
        target: String,
        /// What the server did instead, as the rest of a sentence.
        problem: String,
    },
    /// A certificate, a key or the name of a server cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// The process may not open enough files.
    #[error("{users} users need more open files than the {limit} allowed; raise `ulimit -n`")]
    Files {
        /// Users of the plan.
        users: usize,
        /// The hard limit of open files.
        limit: u64,
    },
    /// Test data could not be read.
    #[error("{file}: {reason}")]
    Data {
        /// The file.
        file: String,
        /// The problem.
        reason: String,
    },
    /// The thread of the load did not start, or ended without a report.
    #[error("load thread: {0}")]
    Thread(String),
}
