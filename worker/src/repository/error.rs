//! Errors of the model repository.

use std::{error::Error, io, path::PathBuf};

use batchfleet_broker::QueueName;
use url::Url;

use super::{advice::LAYOUT, identity::Digest};
use crate::pbtxt::SyntaxError;

/// Why a repository cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// A folder or file cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// A fetched file cannot be stored.
    #[error(
        "cannot write {path}: {error}; --model-cache names a folder with enough space for the models"
    )]
    Unwritable {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// A `config.pbtxt` cannot be parsed.
    #[error("{path}, {error}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The line and the cause.
        error: SyntaxError,
    },
    /// A `config.pbtxt` contradicts the model.
    #[error("model {model}: {problem}")]
    Contradiction {
        /// The model, with its version if the problem concerns one version.
        model: String,
        /// The contradiction.
        problem: String,
    },
    /// A requested model is missing.
    #[error("no model {model:?} in {repository}; there is: {present}")]
    UnknownModel {
        /// The requested name.
        model: String,
        /// The folder that was searched.
        repository: PathBuf,
        /// The models in the folder.
        present: String,
    },
    /// A model was asked for that `--model` leaves out.
    #[error("model {model:?} is not among those that --model names")]
    NotSelected {
        /// The requested name.
        model: String,
    },
    /// An object store cannot be read.
    #[error("cannot read {url}: {error}{}", plain_http(.error))]
    Store {
        /// The store's address.
        url: Box<Url>,
        /// The cause.
        error: Box<object_store::Error>,
    },
    /// A model does not have the requested digest.
    #[error(
        "model {model} has the digest {found}, but {wanted} was required; `batchfleet digest` computes \
         it"
    )]
    Digest {
        /// Name and version.
        model: QueueName,
        /// The requested digest.
        wanted: Digest,
        /// The model's digest.
        found: Digest,
    },
    /// The folder of a model or a version is given as repository.
    #[error("{path} {advice}")]
    WrongRoot {
        /// The folder.
        path: PathBuf,
        /// What the folder is, and which folder is the repository.
        advice: String,
    },
    /// The repository has no model.
    #[error("no model in {path}: expected {LAYOUT}{advice}")]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What is in the folder, if that helps.
        advice: String,
    },
}

/// Advice on a store without TLS, which needs an option of its own.
fn plain_http(error: &object_store::Error) -> &'static str {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("URL scheme is not allowed") {
            return "; a store at http:// is read only with the option allow_http=true, because \
                    models travel unencrypted: set ALLOW_HTTP=true in the environment (for s3:// \
                    AWS_ALLOW_HTTP=true), or write the file allow_http in the folder of \
                    --model-repository-options";
        }
        cause = error.source();
    }
    ""
}
