//! What is known of the claims of a pipeline, and when the next is made.

use tokio::time::Instant;

/// What the last claim found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastClaim {
    /// The queue was empty for a second, which the pipeline does not know.
    Empty,
    /// Fewer jobs than requested.
    Some,
    /// As many jobs as requested. More may wait.
    Full,
}

/// The plan of a claim during a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimAhead {
    /// When to claim.
    pub(super) at: Instant,
    /// When the run should end, if the next batch is formed during the run.
    pub(super) forms_until: Option<Instant>,
}

/// The jobs that could run after the current run, as far as they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// None.
    Nothing,
    /// More jobs than the last claim asked for.
    InQueue,
    /// The worker holds some.
    Held,
}
