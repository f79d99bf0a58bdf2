//! What requests cost by the length of their rows, as workers announce it.

use batchfleet_broker::{Batching, RowShapes, Tensor};

/// The usual cost is an average over about as many rows, as at the workers.
const USUAL_OVER: f64 = 200.0;

/// The costs of requests of one model version, in units, and in rows of the length that is usual at its
/// workers: announced capacities and times are of such rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestCost {
    /// Units of a row by its length, in order of length; empty if rows of all lengths cost the same.
    by_length: Vec<(u64, f64)>,
    /// Units of a row of the usual length at the workers; 0 before they are known.
    row_units: f64,
    /// Units of a request, on average over the last requests; `None` before the first.
    usual: Option<f64>,
}

impl RequestCost {
    /// Adopts the costs that a worker announces.
    pub(crate) fn adopt(&mut self, batching: Option<&Batching>) {
        let (by_length, row_units) = batching
            .map(|batching| (batching.units_by_length.clone(), batching.row_units))
            .unwrap_or_default();
        if by_length != self.by_length {
            // The mean is of other units.
            self.usual = None;
        }
        (self.by_length, self.row_units) = (by_length, row_units.max(1.0));
    }

    /// Counts a request of `rows` rows; returns its cost in units.
    pub(crate) fn count(&mut self, shapes: &RowShapes, rows: u32, inputs: &[Tensor]) -> f64 {
        let units = self.of(shapes, rows, inputs);
        if !self.by_length.is_empty() {
            let rows = f64::from(rows.max(1));
            let usual = self.usual.get_or_insert(units);
            *usual += (units - *usual) * rows / (rows + USUAL_OVER);
        }
        units
    }

    /// The cost of a request of `rows` rows in units, of which only the shapes of the inputs need to be
    /// known.
    pub(crate) fn of(&self, shapes: &RowShapes, rows: u32, inputs: &[Tensor]) -> f64 {
        let rows = f64::from(rows.max(1));
        if self.by_length.is_empty() {
            return rows;
        }
        rows * self.row_units(shapes.longest(inputs))
    }

    /// Converts units to rows of the usual length.
    pub(crate) fn rows(&self, units: f64) -> f64 {
        units / self.usual_row_units()
    }

    /// Converts rows of the usual length to units.
    pub(crate) fn units(&self, rows: f64) -> f64 {
        rows * self.usual_row_units()
    }

    fn usual_row_units(&self) -> f64 {
        if self.by_length.is_empty() { 1.0 } else { self.row_units.max(1.0) }
    }

    /// The cost of a request in rows of the usual length, on average; `None` if rows of all lengths
    /// cost the same, or before the first request.
    pub(crate) fn usual_rows(&self) -> Option<f64> {
        Some(self.usual.filter(|_| !self.by_length.is_empty())? / self.row_units)
    }

    /// Units of a row of this length: on the line between two announced lengths, and beyond them those of
    /// the nearest.
    fn row_units(&self, length: u64) -> f64 {
        let above = self.by_length.partition_point(|&(known, _)| known < length);
        match (
            above.checked_sub(1).and_then(|below| self.by_length.get(below)),
            self.by_length.get(above),
        ) {
            (Some(&(from, low)), Some(&(to, high))) => {
                #[expect(clippy::cast_precision_loss, reason = "lengths of rows")]
                let share = (length - from) as f64 / (to - from) as f64;
                low + (high - low) * share
            }
            (Some(&(_, units)), None) | (None, Some(&(_, units))) => units,
            (None, None) => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Datatype, ModelSpec, QueueName, TensorSpec};

    use super::*;

    fn text(length: u64) -> Vec<Tensor> {
        let name = "ids".to_owned();
        let data = vec![0; usize::try_from(length).unwrap()].into();
        vec![Tensor { name, datatype: Datatype::Uint8, shape: vec![1, length], data }]
    }

    fn shapes() -> RowShapes {
        RowShapes::of(&ModelSpec {
            queue: QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: std::num::NonZeroU32::new(64),
            inputs: vec![TensorSpec::new("ids", Datatype::Uint8, [-1, -1])],
            outputs: Vec::new(),
        })
    }

    #[test]
    fn a_request_costs_as_many_usual_rows_as_it_is_longer() {
        let units_by_length = vec![(8, 1.0), (32, 4.0), (512, 64.0)];
        let batching = Batching { row_units: 4.0, units_by_length, ..Batching::default() };
        let mut cost = RequestCost::default();
        let units = cost.count(&shapes(), 3, &text(512));
        assert!((cost.rows(units) - 3.0).abs() < 1e-9, "nothing is known");
        assert_eq!(cost.usual_rows(), None);
        cost.adopt(Some(&batching));
        for (rows, length, usual) in [
            (1, 32, 1.0),
            (3, 8, 0.75),
            (1, 512, 16.0),
            (1, 272, 8.5),
            (1, 4, 0.25),
            (1, 999, 16.0),
        ] {
            let units = cost.count(&shapes(), rows, &text(length));
            let found = cost.rows(units);
            assert!((found - usual).abs() < 1e-9, "{rows} of {length}: {found}");
        }
        for _ in 0..2000 {
            cost.count(&shapes(), 1, &text(128));
        }
        assert!((cost.usual_rows().unwrap() - 4.0).abs() < 0.01, "{cost:?}");
        // Workers that have seen the same rows count one of them as one.
        cost.adopt(Some(&Batching { row_units: 16.0, ..batching.clone() }));
        assert!((cost.usual_rows().unwrap() - 1.0).abs() < 0.01, "{cost:?}");
        cost.adopt(None);
        assert_eq!(cost.usual_rows(), None);
    }
}
