//! Reads model repositories in Triton's layout: `<repository>/<model>/<version>/model.onnx`, with
//! an optional `config.pbtxt` beside the versions. A repository in an object store is fetched into
//! a folder first.

mod error;
mod location;
mod names;
mod scan;
mod versions;
mod wanted;

pub use self::{
    error::RepositoryError,
    location::Location,
    wanted::{Digest, Wanted},
};
pub(crate) use self::{
    location::StoreSettings,
    scan::{ModelSource, scan},
};
