//! Which sizes to try for the open dimensions of a model's inputs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use batchfleet_broker::ModelSpec;

use crate::graph::{Dimension, Graph};

/// Sizes for all open dimensions together: those of common models, from small to large, then small
/// sizes and those of audio.
const SIZES: &[u64] = &[
    8, 16, 24, 28, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 299, 320, 384, 416, 448, 480,
    512, 640, 1, 2, 3, 4, 5, 1280, 8000, 16_000,
];
/// Sizes of the other dimensions while one dimension is 1, or twice as large.
const MIXED: [u64; 3] = [16, 64, 256];
/// Larger inputs are not tried.
const MOST_ELEMENTS: u64 = 1 << 25;

/// The shape of each input for a request of one row, in the order of the inputs.
pub(super) type Shapes = Vec<Vec<u64>>;

/// The dimensions of the inputs of a model.
pub(super) struct Dimensions {
    inputs: Vec<Vec<Size>>,
    /// The symbols of open dimensions.
    symbols: BTreeSet<String>,
    /// The symbols that only count the rows of requests to a model that does not batch.
    rows: BTreeSet<String>,
}

/// The size of one dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Size {
    Known(u64),
    /// Open. Dimensions of the same symbol have the same size.
    Symbol(String),
}

impl Dimensions {
    /// The dimensions of the inputs of `model`: sizes that `given` states by input, without the row
    /// dimension; then sizes that the graph implies.
    pub(super) fn new(
        model: &ModelSpec,
        graph: &Graph,
        given: &BTreeMap<String, Vec<u64>>,
    ) -> Self {
        let mut inputs = Vec::with_capacity(model.inputs.len());
        for input in &model.inputs {
            let row_axis = input.row_axis.filter(|_| model.batches()).map(|axis| axis as usize);
            let (name, rank) = (&input.name, input.shape.len());
            let named = graph.input(name).filter(|dims| dims.len() == rank).unwrap_or_default();
            // A request may have another rank than the model's input, which is then reshaped.
            let is_reshaped = graph.input(name).is_some_and(|dims| dims.len() != rank);
            let implied = if is_reshaped { BTreeMap::new() } else { graph.implied(name, rank) };
            let mut given = given.get(name).map(Vec::as_slice).unwrap_or_default().iter();
            let size = |(axis, &dim): (usize, &i64)| {
                if Some(axis) == row_axis {
                    return Size::Known(1);
                }
                let given = given.next();
                if let Ok(size) = u64::try_from(dim) {
                    return Size::Known(size);
                }
                match (given.or(implied.get(&axis)), named.get(axis)) {
                    (Some(&size), _) => Size::Known(size),
                    (None, Some(Dimension::Symbol(symbol))) => Size::Symbol(symbol.clone()),
                    (None, _) => Size::Symbol(format!("{name} {axis}")),
                }
            };
            inputs.push(input.shape.iter().enumerate().map(size).collect::<Vec<Size>>());
        }
        let terms = |dims: &[Size]| dims.iter().flat_map(Size::terms).collect::<Vec<String>>();
        let symbols: BTreeSet<String> = inputs.iter().flat_map(|dims| terms(dims)).collect();
        let of_rows = |dims: &Vec<Size>| terms(&dims[..dims.len().min(1)]);
        let others = |dims: &Vec<Size>| terms(&dims[dims.len().min(1)..]);
        let others: BTreeSet<String> = inputs.iter().flat_map(others).collect();
        let rows = inputs.iter().filter(|dims| dims.len() > 1).flat_map(of_rows);
        let rows = rows.filter(|symbol| !others.contains(symbol)).collect();
        Self { inputs, symbols, rows }
    }

    /// The shapes to try, the most likely first.
    pub(super) fn shapes(&self) -> Vec<Shapes> {
        let of_one_row =
            |size| move |symbol: &str| if self.rows.contains(symbol) { 1 } else { size };
        let mut tried: Vec<Shapes> =
            SIZES.iter().map(|&size| self.with(of_one_row(size))).collect();
        tried.extend(SIZES.iter().map(|&size| self.with(|_| size)));
        // One dimension may be a count of its own: of rows, of captions, of earlier tokens.
        for odd in &self.symbols {
            for size in MIXED {
                for odd_size in [1, size * 2, 0] {
                    let of = |symbol: &str| if symbol == odd { odd_size } else { size };
                    tried.push(self.with(of));
                }
            }
        }
        let mut seen = BTreeSet::new();
        tried.retain(|shapes| {
            let is_small = |shape: &Vec<u64>| {
                let elements = shape.iter().try_fold(1_u64, |count, &dim| count.checked_mul(dim));
                elements.is_some_and(|count| count <= MOST_ELEMENTS)
            };
            shapes.iter().all(is_small) && seen.insert(shapes.clone())
        });
        tried
    }

    /// The shapes of one row whose open dimensions all have this size.
    pub(super) fn uniform(&self, size: u64) -> Shapes {
        self.with(|symbol| if self.rows.contains(symbol) { 1 } else { size })
    }

    /// The shapes in which each symbol has the size `of` it.
    fn with(&self, of: impl Fn(&str) -> u64) -> Shapes {
        let size = |size: &Size| match size {
            Size::Known(size) => *size,
            Size::Symbol(sum) => {
                parts(sum).map(|part| part.parse().unwrap_or_else(|_| of(part))).sum()
            }
        };
        self.inputs.iter().map(|dims| dims.iter().map(size).collect()).collect()
    }
}

impl Size {
    /// The symbols of which the size is the sum.
    fn terms(&self) -> Vec<String> {
        let Self::Symbol(sum) = self else { return Vec::new() };
        let symbols = parts(sum).filter(|part| part.parse::<u64>().is_err());
        symbols.map(str::to_owned).collect()
    }
}

/// The parts of a sum: exporters name the sum of two dimensions, as in `past + 1`.
fn parts(sum: &str) -> impl Iterator<Item = &str> {
    sum.split('+').map(str::trim)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use batchfleet_broker::{Datatype, QueueName, TensorSpec};

    use super::*;

    fn shapes(max_batch: u32, inputs: &[(&str, &[i64])], given: &[(&str, &[u64])]) -> Vec<Shapes> {
        let spec = |&(name, dims): &(&str, &[i64])| TensorSpec::new(name, Datatype::Fp32, dims);
        let model = ModelSpec {
            queue: QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: NonZeroU32::new(max_batch),
            inputs: inputs.iter().map(spec).collect(),
            outputs: Vec::new(),
        };
        let given = given.iter().map(|&(name, dims)| (name.to_owned(), dims.to_vec())).collect();
        Dimensions::new(&model, &Graph::default(), &given).shapes()
    }

    #[test]
    fn closed_dimensions_leave_nothing_to_try() {
        assert_eq!(shapes(8, &[("X", &[-1, 3, 4])], &[]), [[[1, 3, 4]]]);
        assert_eq!(shapes(0, &[("X", &[2, 3]), ("S", &[])], &[]), [[vec![2, 3], vec![]]]);
    }

    #[test]
    fn given_sizes_are_the_only_ones() {
        let given: &[(&str, &[u64])] = &[("X", &[3, 32, 48])];
        assert_eq!(shapes(8, &[("X", &[-1, 3, -1, -1])], given), [[[1, 3, 32, 48]]]);
        assert_eq!(shapes(0, &[("X", &[3, -1, -1])], given), [[[3, 32, 48]]]);
    }

    #[test]
    fn open_sizes_grow_together_then_apart() {
        let tried = shapes(8, &[("X", &[-1, 3, -1, -1])], &[]);
        assert_eq!(tried[0], [[1, 3, 8, 8]]);
        let is_tried = |shape: &[u64]| tried.iter().any(|shapes| shapes[0] == shape);
        assert!(is_tried(&[1, 3, 640, 640]) && is_tried(&[1, 3, 1, 1]));
        assert!(is_tried(&[1, 3, 16, 32]) && is_tried(&[1, 3, 64, 1]));
        assert!(!is_tried(&[1, 3, 16_000, 16_000]), "too large");
    }

    #[test]
    fn a_model_that_does_not_batch_is_first_tried_with_one_row() {
        let tried = shapes(0, &[("X", &[-1, 4]), ("Y", &[-1, -1])], &[]);
        assert_eq!(tried[0], [[1, 4], [1, 8]]);
        assert!(tried.contains(&vec![vec![16, 4], vec![16, 16]]));
    }

    #[test]
    fn sums_of_symbols_are_summed() {
        let dims = Dimensions {
            inputs: vec![vec![
                Size::Symbol("past + new".to_owned()),
                Size::Symbol("new+1".to_owned()),
            ]],
            symbols: BTreeSet::new(),
            rows: BTreeSet::new(),
        };
        assert_eq!(dims.with(|symbol| if symbol == "past" { 16 } else { 2 }), [[18, 3]]);
    }
}
