//! An engine that returns its inputs as outputs, for tests of the code around a model. Datatypes,
//! number of inputs and speed are configurable.
//!
//! `config.pbtxt` sets `backend: "batchfleet_echo"` and declares as many outputs as inputs, of the
//! same types; the first input becomes the first output, and so on. A batch of b rows takes
//! `batch_ms` + b · `row_ms` milliseconds, where `batch_ms` and `row_ms` are parameters. [`faults`]
//! lists all other parameters.

mod faults;

use std::{num::NonZeroU32, thread, time::Duration};

use batchfleet_broker::{ModelSpec, Tensor, TensorSpec};

use self::faults::Faults;
use super::{Engine, EngineError};
use crate::{
    config::TensorConfig,
    layout::Layout,
    repository::{ModelSource, RepositoryError},
};

/// An echo engine, defined by its config alone.
#[derive(Debug)]
pub(crate) struct Echo {
    spec: ModelSpec,
    per_batch: Duration,
    per_row: Duration,
    faults: Faults,
}

impl Echo {
    /// Sets up the echo engine that `source` describes.
    pub(crate) fn load(source: &ModelSource, max_batch: u32) -> Result<Self, RepositoryError> {
        let config = &source.config;
        let types = |specs: &[TensorConfig]| specs.iter().map(|s| s.datatype).collect::<Vec<_>>();
        if config.inputs.is_empty() || types(&config.inputs) != types(&config.outputs) {
            return Err(
                source.contradiction("an echo needs inputs, and as many outputs of the same types")
            );
        }
        let max_batch = NonZeroU32::new(config.max_batch.unwrap_or(max_batch));
        let with_rows = |tensor: &TensorConfig| {
            let row_axis = config.axis(&tensor.name).and_then(|axis| u32::try_from(axis).ok());
            let spec = TensorSpec::new(&tensor.name, tensor.datatype, tensor.dims.clone());
            let spec = TensorSpec { row_axis, ..spec };
            if max_batch.is_some() { Layout::open(&spec) } else { spec }
        };
        Ok(Self {
            spec: ModelSpec {
                queue: source.queue.clone(),
                platform: "batchfleet_echo".to_owned(),
                backend: "batchfleet_echo".to_owned(),
                max_batch,
                inputs: config.inputs.iter().map(with_rows).collect(),
                outputs: config.outputs.iter().map(with_rows).collect(),
            },
            per_batch: milliseconds(source, "batch_ms")?,
            per_row: milliseconds(source, "row_ms")?,
            faults: Faults::load(source)?,
        })
    }
}

fn milliseconds(source: &ModelSource, parameter: &str) -> Result<Duration, RepositoryError> {
    let Some(text) = source.config.parameters.get(parameter) else {
        return Ok(Duration::ZERO);
    };
    text.parse().ok().and_then(|ms: f64| Duration::try_from_secs_f64(ms / 1000.0).ok()).ok_or_else(
        || source.contradiction(format!("{parameter} {text:?} is not a number of milliseconds")),
    )
}

impl Engine for Echo {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn serve_singly(&mut self) {
        self.spec.max_batch = None;
    }

    fn provider(&self) -> &'static str {
        "cpu"
    }

    fn run(&mut self, mut inputs: Vec<Tensor>, rows: u32) -> Result<Vec<Tensor>, EngineError> {
        if self.faults.device_is_lost() {
            for input in &mut inputs {
                input.data = vec![0; input.data.len()].into();
            }
        } else {
            self.faults.record(&inputs, rows)?;
            let takes = (self.per_batch + self.per_row * rows) * self.faults.slowdown();
            if !takes.is_zero() {
                thread::sleep(takes);
            }
            self.faults.inject(&inputs, rows)?;
        }
        for (tensor, output) in inputs.iter_mut().zip(&self.spec.outputs) {
            tensor.name.clone_from(&output.name);
        }
        Ok(inputs)
    }
}
