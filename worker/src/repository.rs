//! Reads model repositories in Triton's layout: `<repository>/<model>/<version>/model.onnx`, with
//! an optional `config.pbtxt` beside the versions. A repository in an object store is fetched into
//! a folder first.
//!
//! A worker reads every file of a model into memory ([`files`]); the digest that identifies the
//! model ([`identity`]) is computed from these bytes.

mod advice;
mod checksums;
mod digests;
mod error;
mod external;
mod files;
mod identity;
mod location;
mod names;
mod scan;
mod versions;
mod wanted;

pub use self::{
    digests::{VersionDigest, digests},
    error::RepositoryError,
    identity::Digest,
    location::Location,
    wanted::Wanted,
};
pub(crate) use self::{
    files::ModelBytes,
    location::StoreSettings,
    scan::{BadModel, ModelSource, Scan, model_names, of_model, scan},
};
