//! How the requests of a batch share its tensors: which requests can be joined, how their inputs
//! are joined, and how the outputs are split among the requests. Pure.
//!
//! Input bytes are copied once, and only if a batch has several requests or padding. Outputs of
//! single requests are slices of the batch's outputs.

use std::num::NonZeroU32;

use batchfleet_broker::{Datatype, Job, Tensor, TensorSpec};
use bytes::Bytes;

use crate::tensors;

/// How a model's tensors hold the rows of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// A batch is one request of one row; the model's tensors have no row dimension.
    Single,
    /// The first dimension of every input and output counts the rows of the batch.
    RowsFirst,
}

impl Layout {
    /// The layout of a model with requests of at most `max_batch` rows; `None` if the model does
    /// not batch.
    pub(crate) const fn of(max_batch: Option<NonZeroU32>) -> Self {
        if max_batch.is_some() { Self::RowsFirst } else { Self::Single }
    }

    /// Whether a model with these tensors can run several rows at once: the first dimension of
    /// every input and output takes any size.
    pub(crate) fn can_batch(inputs: &[TensorSpec], outputs: &[TensorSpec]) -> bool {
        let is_open = |spec: &TensorSpec| spec.shape.first() == Some(&-1);
        !inputs.is_empty() && inputs.iter().chain(outputs).all(is_open)
    }

    /// The shape for a whole batch of an input or output that has `shape` for one row.
    pub(crate) fn spec_shape(self, mut shape: Vec<i64>) -> Vec<i64> {
        if self == Self::RowsFirst {
            shape.insert(0, -1);
        }
        shape
    }

    /// Whether `tensor` holds exactly `rows` rows.
    pub(crate) fn holds(self, tensor: &Tensor, rows: u32) -> bool {
        match self {
            Self::Single => rows == 1,
            Self::RowsFirst => tensor.shape.first() == Some(&u64::from(rows)),
        }
    }

    /// Whether two valid requests to one model may run in one batch: their inputs may differ only
    /// in the number of rows.
    pub(crate) fn can_join(self, one: &Job, other: &Job) -> bool {
        let is_alike = |(a, b): (&Tensor, &Tensor)| {
            a.datatype == b.datatype && a.shape.get(1..) == b.shape.get(1..)
        };
        self == Self::RowsFirst
            && one.inputs.len() == other.inputs.len()
            && one.inputs.iter().zip(&other.inputs).all(is_alike)
    }

    /// Lays out requests that [may be joined](Self::can_join) as one batch, followed by `padding`
    /// rows of zeros or empty strings.
    pub(crate) fn lay_out(self, jobs: &[&Job], padding: u32) -> BatchInputs {
        let rows = jobs.iter().map(|job| job.rows).collect();
        let slots = BatchSlots { layout: self, rows, padding };
        let inputs = jobs.first().map_or(&[][..], |first| &first.inputs);
        let column = |(index, input): (usize, &Tensor)| {
            let part = |job: &&Job| job.inputs[index].data.clone();
            let mut parts: Vec<Bytes> = jobs.iter().map(part).collect();
            if padding > 0 {
                let elements = u64::from(padding) * elements_per_row(&input.shape);
                parts.push(tensors::zeros(input.datatype, elements));
            }
            let mut shape = input.shape.clone();
            if let (Self::RowsFirst, Some(first)) = (self, shape.first_mut()) {
                *first = u64::from(slots.rows());
            }
            Column { name: input.name.clone(), datatype: input.datatype, shape, parts }
        };
        let columns = inputs.iter().enumerate().map(column).collect();
        BatchInputs { columns, slots }
    }

    /// `rows` rows of zeros, or of empty strings, for an input. Open dimensions of `spec` are taken
    /// from `dims`, which has no row dimension; dimensions missing in `dims` are 1.
    pub(crate) fn zeros(self, spec: &TensorSpec, rows: u32, dims: &[u64]) -> Tensor {
        let (row_dim, of_row) = match (self, spec.shape.split_first()) {
            (Self::RowsFirst, Some((_, of_row))) => (Some(u64::from(rows)), of_row),
            _ => (None, &spec.shape[..]),
        };
        let of_row = of_row.iter().enumerate().map(|(index, &dim)| {
            u64::try_from(dim).unwrap_or_else(|_| dims.get(index).copied().unwrap_or(1))
        });
        let shape: Vec<u64> = row_dim.into_iter().chain(of_row).collect();
        let data = tensors::zeros(spec.datatype, shape.iter().product());
        Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data }
    }

    /// The slots of `rows` requests of one row each.
    pub(crate) fn single_rows(self, rows: u32) -> BatchSlots {
        BatchSlots { layout: self, rows: vec![1; rows as usize], padding: 0 }
    }
}

/// The inputs of a batch, not joined yet.
#[derive(Debug)]
pub(crate) struct BatchInputs {
    columns: Vec<Column>,
    slots: BatchSlots,
}

/// One input of a batch, in parts from its requests.
#[derive(Debug)]
struct Column {
    name: String,
    datatype: Datatype,
    /// The shape of the joined input.
    shape: Vec<u64>,
    /// The bytes of each request, in order, followed by the bytes of the padding.
    parts: Vec<Bytes>,
}

impl BatchInputs {
    /// Joins the requests. Returns the model's inputs, and which rows belong to which request.
    pub(crate) fn join(self) -> (Vec<Tensor>, BatchSlots) {
        let join = |Column { name, datatype, shape, parts }| {
            let data = match <[Bytes; 1]>::try_from(parts) {
                Ok([only]) => only,
                Err(parts) => parts.concat().into(),
            };
            Tensor { name, datatype, shape, data }
        };
        (self.columns.into_iter().map(join).collect(), self.slots)
    }
}

/// Which rows of a batch belong to which request.
#[derive(Clone, Debug)]
pub(crate) struct BatchSlots {
    layout: Layout,
    /// Rows of each request, in order.
    rows: Vec<u32>,
    /// Rows of padding after the last request.
    padding: u32,
}

impl BatchSlots {
    /// Rows that the engine runs, padding included.
    pub(crate) fn rows(&self) -> u32 {
        self.rows.iter().sum::<u32>() + self.padding
    }

    /// Rows of each request, in order.
    #[cfg(test)]
    pub(crate) fn of_requests(&self) -> &[u32] {
        &self.rows
    }

    /// Splits a batch's outputs by request, in order. Rows of padding are dropped.
    pub(crate) fn split(&self, outputs: Vec<Tensor>) -> Result<Vec<Vec<Tensor>>, UnevenOutput> {
        if self.layout == Layout::Single {
            return Ok(vec![outputs]);
        }
        let total = self.rows();
        let empty = || Vec::with_capacity(outputs.len());
        let mut requests: Vec<Vec<Tensor>> = self.rows.iter().map(|_| empty()).collect();
        for output in outputs {
            if !self.layout.holds(&output, total) {
                let Tensor { name, shape, .. } = output;
                return Err(UnevenOutput { name, shape, rows: total });
            }
            if let ([request], 0) = (requests.as_mut_slice(), self.padding) {
                request.push(output);
                continue;
            }
            let Tensor { name, datatype, shape, data: mut rest } = output;
            for (request, &rows) in requests.iter_mut().zip(&self.rows) {
                let elements = u64::from(rows) * elements_per_row(&shape);
                let length = tensors::byte_length(datatype, &rest, elements);
                let data = rest.split_to(length.min(rest.len()));
                let mut shape = shape.clone();
                shape[0] = u64::from(rows);
                request.push(Tensor { name: name.clone(), datatype, shape, data });
            }
        }
        Ok(requests)
    }
}

/// An output that does not hold the batch's rows and therefore cannot be split among requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("output {name:?} of shape {shape:?} does not hold {rows} rows")]
pub struct UnevenOutput {
    /// The output's name.
    pub name: String,
    /// The output's shape.
    pub shape: Vec<u64>,
    /// Rows of the batch.
    pub rows: u32,
}

/// Elements of one row of a tensor whose first dimension counts rows.
fn elements_per_row(shape: &[u64]) -> u64 {
    shape.iter().skip(1).product()
}

#[cfg(test)]
mod tests;
