//! Parts of the examples that run a model without the worker.

use std::time::Duration;

use anyhow::{Context, Result};
use ort::session::Session;

/// Loads a model with ONNX Runtime's library, for one thread.
pub(crate) fn open(library: &str, model: &str) -> Result<Session> {
    let environment = ort::init_from(library)?.build()?;
    Ok(Session::builder(&environment)?
        .with_intra_threads(1)
        .map_err(|error| anyhow::anyhow!("{error}"))?
        .commit_from_file(model)?)
}

/// CPU time of this thread, which runs the model.
pub(crate) fn cpu() -> Result<Duration> {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = times.split(' ').next().context("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
