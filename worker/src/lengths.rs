//! The lengths of rows: how long the rows of a request are, and what they cost.

use std::sync::Arc;

use batchfleet_broker::{Job, ModelSpec, RowShapes, Tensor};
use batchfleet_policy::{LengthCost, LengthSample};
use parking_lot::RwLock;

use crate::padding::Padding;

/// The open dimensions of a model's inputs, and the cost u(S) of a row by its length. Clones share the
/// cost.
///
#[derive(Clone, Debug, Default)]
pub(crate) struct RowLengths {
    shapes: RowShapes,
    padding: Option<Arc<Padding>>,
    cost: Arc<RwLock<LengthCost>>,
    /// The batches from which the cost was measured.
    measured: Arc<[LengthSample]>,
    /// The length to expect before the first request.
    expected: u64,
}

impl RowLengths {
    /// The open dimensions of the inputs of `model`, whose rows cost one unit each until their cost
    /// is [known](Self::with_cost).
    pub(crate) fn of(model: &ModelSpec) -> Self {
        Self { shapes: RowShapes::of(model), ..Self::default() }
    }

    /// The same with the cost of rows according to the `measured` batches. `expected` is the most
    /// likely length.
    pub(crate) fn with_cost(self, measured: &[LengthSample], expected: u64) -> Self {
        let cost = Arc::new(RwLock::new(LengthCost::fit(measured)));
        Self { cost, measured: measured.into(), expected, ..self }
    }

    /// The batches from which the cost was measured.
    pub(crate) fn measured(&self) -> &[LengthSample] {
        &self.measured
    }

    /// Replaces the cost of rows.
    pub(crate) fn correct(&self, cost: LengthCost) {
        *self.cost.write() = cost;
    }

    /// Whether rows may differ in length.
    pub(crate) fn vary(&self) -> bool {
        self.shapes.vary()
    }

    /// Whether rows of all lengths cost the same.
    pub(crate) fn are_free(&self) -> bool {
        self.cost.read().is_flat()
    }

    /// The same for a model whose inputs may be padded.
    pub(crate) fn with_padding(self, padding: Option<Arc<Padding>>) -> Self {
        Self { padding, ..self }
    }

    /// S: the length of the rows of a request if it runs alone; 1 if the model's rows have one
    /// length.
    pub(crate) fn length(&self, job: &Job) -> u64 {
        let length = self.longest(&job.inputs);
        let Some(padding) = &self.padding else { return length };
        match padding.length(job) {
            // Other open dimensions keep their size.
            Some(padded) if padded > 0 => length / padded * padding.target(padded),
            _ => length,
        }
    }

    /// S: the length of the rows in the inputs of a request or of a batch.
    pub(crate) fn longest(&self, inputs: &[Tensor]) -> u64 {
        self.shapes.longest(inputs)
    }

    /// u(S), by which lengths are compared.
    pub(crate) fn cost(&self) -> LengthCost {
        *self.cost.read()
    }

    /// Learns the cost of rows that are longer than all before.
    pub(crate) fn learn(&self, length: u64, units: f64) {
        self.cost.write().learn(length, units);
    }

    /// u(S): the units that each row of a request costs.
    pub(crate) fn row_units(&self, job: &Job) -> f64 {
        let cost = self.cost();
        if cost.is_flat() { 1.0 } else { cost.units(self.length(job)) }
    }

    /// The units that all rows of a request cost.
    pub(crate) fn units(&self, job: &Job) -> f64 {
        f64::from(job.rows) * self.row_units(job)
    }

    /// The length of rows to expect before the first request is known.
    pub(crate) fn expected_length(&self) -> u64 {
        self.expected
    }

    /// What a row costs before the first request is known.
    pub(crate) fn expected_units(&self) -> f64 {
        self.cost().units(self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::examples::{delivery, spec};
    use batchfleet_broker::{Datatype, TensorSpec};

    #[test]
    fn the_length_of_a_row_is_the_product_of_its_open_dimensions() {
        let mut model = spec(64);
        model.inputs.push(TensorSpec::new("image", Datatype::Uint8, [-1, 3, -1, -1]));
        let mut job = delivery(0, 2, 100).job;
        let lengths = RowLengths::of(&model);
        assert_eq!((lengths.length(&job), lengths.vary()), (100, true));
        let shape = vec![2, 3, 20, 30];
        job.inputs.push(Tensor { name: "image".to_owned(), shape, ..job.inputs[0].clone() });
        assert_eq!(lengths.length(&job), 600);
        // A row of 100 costs one unit, and longer rows more in proportion.
        let sample = |rows, length, ms| {
            let took = std::time::Duration::from_millis(ms);
            LengthSample { rows, length, took }
        };
        let measured =
            [sample(1, 100, 11), sample(2, 100, 21), sample(1, 400, 41), sample(2, 400, 81)];
        let lengths = lengths.with_cost(&measured, 200);
        assert!((lengths.expected_units() - 2.0).abs() < 1e-6, "{lengths:?}");
        // Nothing is known of rows of 2000 until they have run.
        job.inputs[1].shape = vec![2, 3, 40, 50];
        assert!((lengths.units(&job) - 16.0).abs() < 1e-6, "{}", lengths.units(&job));
        lengths.learn(2000, 20.0);
        assert!((lengths.clone().units(&job) - 40.0).abs() < 1e-6, "{}", lengths.units(&job));
    }

    #[test]
    fn rows_of_closed_dimensions_have_one_length() {
        let mut model = spec(64);
        model.inputs[0].shape = vec![-1, 7];
        let lengths = RowLengths::of(&model);
        assert!(!lengths.vary() && lengths.are_free());
        assert_eq!(lengths.length(&delivery(0, 2, 7).job), 1);
    }
}
