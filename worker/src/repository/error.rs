//! Errors of the model repository.

use std::{io, path::PathBuf};

use url::Url;

use super::wanted::Digest;
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
    /// An object store cannot be read.
    #[error("cannot read {url}: {error}")]
    Store {
        /// The store's address.
        url: Box<Url>,
        /// The cause.
        error: Box<object_store::Error>,
    },
    /// A model's file does not have the requested digest.
    #[error("{path} has the digest {found}, but {wanted} was required")]
    Digest {
        /// The file.
        path: PathBuf,
        /// The requested digest.
        wanted: Digest,
        /// The file's digest.
        found: Digest,
    },
    /// The repository has no model.
    #[error("no model in {0}: expected <model>/<version>/model.onnx")]
    Empty(PathBuf),
}
