//! An engine that returns its inputs as outputs, for tests of the code around a model. Datatypes,
//! number of inputs and speed are configurable.
//!
//! `config.pbtxt` sets `backend: "batchfleet_echo"` and declares as many outputs as inputs, of the
//! same types; the first input becomes the first output, and so on. A batch of b rows takes
//! `batch_ms` + b · `row_ms` milliseconds, where `batch_ms` and `row_ms` are parameters, and
//! `length_us` microseconds for each element of the open dimensions of its rows, and `switch_ms`
//! milliseconds if the batch before had another number of rows or another length. With the parameter
//! `curve_ms`, such as `1=100,16=100,17=200`, it takes in addition the milliseconds of
//! the curve, which is linear between its points. [`faults`] lists all other parameters.

mod faults;

use std::{num::NonZeroU32, thread, time::Duration};

use batchfleet_broker::{ModelSpec, Tensor, TensorSpec};

use self::faults::Faults;
use super::{Engine, EngineError};
use crate::{
    config::TensorConfig,
    layout::Layout,
    lengths::RowLengths,
    repository::{ModelSource, RepositoryError},
};

/// An echo engine, defined by its config alone.
#[derive(Debug)]
pub(crate) struct Echo {
    spec: ModelSpec,
    per_batch: Duration,
    per_row: Duration,
    /// The time of each element of a row.
    per_length: Duration,
    lengths: RowLengths,
    /// The time of a change of rows or length, and both in the last batch.
    per_change: Duration,
    last: Option<(u32, u64)>,
    /// (rows, milliseconds), in order of rows.
    curve: Vec<(u32, f64)>,
    faults: Faults,
}

impl Echo {
    /// Sets up the echo engine that `source` describes.
    pub(crate) fn load(source: &ModelSource, max_batch: u32) -> Result<Self, RepositoryError> {
        let config = &source.config;
        let types = |specs: &[TensorConfig]| specs.iter().map(|s| s.datatype).collect::<Vec<_>>();
        if config.inputs.is_empty()
            || types(&config.inputs) != types(&config.outputs)
            || types(&config.inputs).contains(&None)
        {
            return Err(
                source.contradiction("an echo needs inputs, and as many outputs of the same types")
            );
        }
        let max_batch = NonZeroU32::new(config.max_batch.unwrap_or(max_batch));
        let with_rows = |tensor: &TensorConfig| {
            let row_axis = config.axis(&tensor.name).and_then(|axis| u32::try_from(axis).ok());
            let spec = TensorSpec::new(&tensor.name, tensor.datatype?, tensor.dims.clone());
            let spec = TensorSpec { row_axis, ..spec };
            Some(if max_batch.is_some() { Layout::open(&spec) } else { spec })
        };
        let spec = ModelSpec {
            queue: source.queue.clone(),
            platform: "batchfleet_echo".to_owned(),
            backend: "batchfleet_echo".to_owned(),
            max_batch,
            inputs: config.inputs.iter().filter_map(with_rows).collect(),
            outputs: config.outputs.iter().filter_map(with_rows).collect(),
        };
        Ok(Self {
            per_batch: milliseconds(source, "batch_ms")?,
            per_row: milliseconds(source, "row_ms")?,
            per_length: milliseconds(source, "length_us")? / 1000,
            lengths: RowLengths::of(&spec),
            per_change: milliseconds(source, "switch_ms")?,
            last: None,
            spec,
            curve: curve(source)?,
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

/// The points of the parameter `curve_ms`.
fn curve(source: &ModelSource) -> Result<Vec<(u32, f64)>, RepositoryError> {
    let Some(text) = source.config.parameters.get("curve_ms") else { return Ok(Vec::new()) };
    let point = |pair: &str| {
        let (rows, ms) = pair.split_once('=')?;
        let ms = ms.trim().parse().ok().filter(|ms: &f64| ms.is_finite() && *ms >= 0.0)?;
        Some((rows.trim().parse().ok()?, ms))
    };
    let points: Option<Vec<_>> = text.split(',').map(point).collect();
    let points = points.filter(|points| points.is_sorted_by(|(a, _), (b, _)| a < b));
    points.ok_or_else(|| {
        source.contradiction(format!(
            "curve_ms {text:?} is not rows=milliseconds in order of rows, such as 1=100,64=730"
        ))
    })
}

/// The milliseconds of `rows` rows: on the line between two points, at least those of the first
/// point, and beyond the last point on the last line.
fn along(curve: &[(u32, f64)], rows: u32) -> f64 {
    let next = curve.partition_point(|&(point, _)| point < rows).min(curve.len().max(1) - 1);
    match (next.checked_sub(1).map(|before| curve[before]), curve.get(next)) {
        (_, None) => 0.0,
        (None, Some(&(_, ms))) => ms,
        (Some((from, short)), Some(&(to, long))) => {
            let share = (f64::from(rows) - f64::from(from)) / f64::from(to - from);
            (short + (long - short) * share).max(0.0)
        }
    }
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
            let along = Duration::from_secs_f64(along(&self.curve, rows) / 1000.0);
            let length = self.lengths.longest(&inputs);
            let is_change = self.last.replace((rows, length)) != Some((rows, length));
            let per_length = self.per_length * u32::try_from(length).unwrap_or(u32::MAX);
            let takes = self.per_batch + (self.per_row + per_length) * rows + along;
            let mut takes = takes * self.faults.slowdown();
            if is_change {
                takes += self.per_change;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_linear_between_its_points_and_beyond_the_last() {
        let steps = [(1, 100.0), (16, 100.0), (17, 200.0), (32, 230.0)];
        for (rows, ms) in [(1, 100.0), (9, 100.0), (17, 200.0), (27, 220.0), (42, 250.0)] {
            assert!(
                (along(&steps, rows) - ms).abs() < 1e-9,
                "{rows} rows: {}",
                along(&steps, rows)
            );
        }
        assert!((along(&[(4, 7.0)], 2) - 7.0).abs() < 1e-9);
        assert!(along(&[], 2).abs() < 1e-9);
    }
}
