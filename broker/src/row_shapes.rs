//! The lengths of rows: the sizes of the dimensions that a model leaves open.

use crate::{ModelSpec, Tensor, TensorSpec};

/// The open dimensions of a model's inputs.
///
/// The length of a row is the product of its open dimensions: tokens of a text, samples of a sound,
/// pixels of an image. Of several inputs, the longest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowShapes {
    inputs: Vec<OpenInput>,
}

/// An input with open dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OpenInput {
    name: String,
    /// The open dimensions, other than the one that counts rows.
    axes: Vec<usize>,
}

impl RowShapes {
    /// The open dimensions of the inputs of `model`.
    pub fn of(model: &ModelSpec) -> Self {
        let open = |input: &TensorSpec| {
            let rows = input.row_dimension().filter(|_| model.batches());
            let dims = input.shape.iter().enumerate();
            let axes: Vec<usize> = dims
                .filter(|&(axis, &dim)| dim < 0 && Some(axis) != rows)
                .map(|(axis, _)| axis)
                .collect();
            (!axes.is_empty()).then(|| OpenInput { name: input.name.clone(), axes })
        };
        Self { inputs: model.inputs.iter().filter_map(open).collect() }
    }

    /// Whether rows may differ in length.
    pub fn vary(&self) -> bool {
        !self.inputs.is_empty()
    }

    /// The length of the rows in the inputs of a request or of a batch; 1 if the model's rows have one
    /// length.
    pub fn longest(&self, inputs: &[Tensor]) -> u64 {
        let length = |open: &OpenInput| {
            let input = inputs.iter().find(|input| input.name == open.name)?;
            Some(open.length(input))
        };
        self.inputs.iter().filter_map(length).max().unwrap_or(1)
    }
}

impl OpenInput {
    fn length(&self, input: &Tensor) -> u64 {
        let sizes = self.axes.iter().filter_map(|&axis| input.shape.get(axis));
        sizes.fold(1, |product, &size| product.saturating_mul(size))
    }
}
