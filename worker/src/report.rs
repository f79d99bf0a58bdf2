//! What the load of a model has found, as text for the model's owner: `batchfleet check`.

use std::{
    fmt::{self, Display, Formatter},
    iter::successors,
};

use batchfleet_broker::{Batching, TensorSpec};
use batchfleet_policy::LengthCost;

use crate::{plan::ServingPlan, tuner::SharedTuner};

/// Factor between two lengths whose cost is printed, the first of them, and the last.
const FACTOR: u64 = 4;
const FIRST: u64 = 8;
const LAST: u64 = 4096;

/// The report on a loaded model.
pub(crate) struct ModelReport<'a> {
    plan: &'a ServingPlan,
    batching: Batching,
    /// Rows per second within the latency target.
    capacity: f64,
}

impl<'a> ModelReport<'a> {
    /// The report on a model that is served by this plan.
    pub(crate) fn new(plan: &'a ServingPlan) -> Self {
        let tuner = SharedTuner::new(plan.policy, plan.cost.clone(), plan.lengths.clone());
        let mut tuner = tuner.lock();
        tuner.set_size_change(plan.size_change);
        Self { plan, batching: tuner.report(), capacity: tuner.capacity() }
    }

    fn tensors(f: &mut Formatter<'_>, kind: &str, tensors: &[TensorSpec]) -> fmt::Result {
        tensors.iter().try_for_each(|tensor| {
            writeln!(f, "{kind:<10} {} {} {:?}", tensor.name, tensor.datatype, tensor.shape)
        })
    }

    fn batches(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Batching { n, bound, slo_ms, curve, .. } = &self.batching;
        if !self.plan.spec.batches() {
            return writeln!(f, "{:<10} none: each request runs alone", "batches");
        }
        let (most, bound) = (self.plan.policy.max_batch, bound.code());
        writeln!(f, "{:<10} up to {most} rows; N = {n} ({bound})", "batches")?;
        let capacity = self.capacity;
        writeln!(
            f,
            "{:<10} {capacity:.0} rows/s, with a latency target of {slo_ms} ms",
            "capacity"
        )?;
        self.lengths(f)?;
        writeln!(f, "\n{:>8} {:>12} {:>10}", "rows", "time", "rows/s")?;
        curve.iter().try_for_each(|&(rows, ms)| {
            writeln!(
                f,
                "{rows:>8} {:>12} {:>10.0}",
                format!("{ms:.2} ms"),
                f64::from(rows) * 1e3 / ms
            )
        })
    }

    /// What rows cost by their length, and whether they are padded.
    fn lengths(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let lengths = &self.plan.lengths;
        if !lengths.vary() {
            return Ok(());
        }
        let padding = match self.plan.padding {
            Some(_) => {
                "requests of different lengths run together, padded: proven with three lengths"
            }
            None => "none: only requests of the same length run together",
        };
        writeln!(f, "{:<10} {padding}", "padding")?;
        let cost = lengths.cost();
        if cost.is_flat() {
            return writeln!(f, "{:<10} rows of all lengths cost about the same", "lengths");
        }
        let usual = lengths.expected_length();
        writeln!(
            f,
            "{:<10} times below are of rows of length {usual}; {}",
            "lengths",
            of_lengths(&cost)
        )
    }
}

/// What rows of growing length cost, up to the longest that was measured.
fn of_lengths(cost: &LengthCost) -> String {
    let lengths: Vec<u64> = successors(Some(FIRST), |length| length.checked_mul(FACTOR))
        .take_while(|&length| length <= LAST && !cost.is_new(length))
        .collect();
    let cost_of = |&length: &u64| format!("{length}: {:.1}", cost.units(length));
    let costs: Vec<String> = lengths.iter().map(cost_of).collect();
    format!("rows cost by their length, in proportion: {}", costs.join(", "))
}

impl Display for ModelReport<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ServingPlan { spec, provider, notes, config_lines, .. } = self.plan;
        writeln!(f, "{}: loaded, checked and timed\n", spec.queue)?;
        Self::tensors(f, "input", &spec.inputs)?;
        Self::tensors(f, "output", &spec.outputs)?;
        writeln!(f, "{:<10} {provider}", "runs on")?;
        self.batches(f)?;
        if !notes.is_empty() {
            writeln!(f)?;
        }
        notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        if !config_lines.is_empty() {
            writeln!(f, "\nAdd to {}/config.pbtxt:\n", spec.queue.model)?;
        }
        config_lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
