//! How the requests of a batch share its tensors: which requests can be joined, how their inputs
//! are joined, and how the outputs are split among the requests. Pure.
//!
//! Inputs may differ in length along a dimension that is [declared](Padding) to be padded: they are
//! filled up to the longest input of the batch, and outputs are cut back.
//!
//! Any dimension of a tensor may count the rows of a batch. An input without rows holds one value
//! for the whole batch: only requests with the same value are joined. An output without rows has
//! the same value for every request of the batch.
//!
//! Input bytes are copied at most once, into [memory that stays](KeptBuffers) between batches. They are
//! not copied if a batch has one request without padding whose first dimension counts rows. If the
//! first dimension counts rows, outputs of single requests are slices of the batch's outputs.

mod column;
mod filled;
mod rows;

use std::{ops::Range, sync::Arc};

use batchfleet_broker::{Job, ModelSpec, Tensor, TensorSpec};

use self::{
    column::{Column, FirstRows, Piece},
    rows::Rows,
};
use crate::{kept_buffers::KeptBuffers, padding::Padding};

/// How a model's tensors hold the rows of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The dimensions that count rows. `None` if the model does not batch: a batch is one request,
    /// and its tensors are used as they are.
    axes: Option<Arc<RowAxes>>,
    /// What may be padded; `None` if inputs of different lengths are not joined.
    padding: Option<Arc<Padding>>,
}

/// The dimensions that count rows, by input and output.
#[derive(Debug)]
struct RowAxes {
    inputs: Vec<RowAxis>,
    outputs: Vec<RowAxis>,
}

/// The dimension of one input or output that counts rows.
#[derive(Debug)]
struct RowAxis {
    name: String,
    axis: Option<usize>,
}

impl Layout {
    /// The layout of a model.
    pub(crate) fn of(spec: &ModelSpec) -> Self {
        let axis = |tensor: &TensorSpec| RowAxis {
            name: tensor.name.clone(),
            axis: tensor.row_dimension(),
        };
        let axes = || RowAxes {
            inputs: spec.inputs.iter().map(axis).collect(),
            outputs: spec.outputs.iter().map(axis).collect(),
        };
        Self { axes: spec.batches().then(|| Arc::new(axes())), padding: None }
    }

    /// The same layout with inputs that may be padded.
    pub(crate) fn with_padding(self, padding: Option<Arc<Padding>>) -> Self {
        Self { padding, ..self }
    }

    /// The layout of a batch of one request, whose outputs need not hold its rows.
    pub(crate) const fn of_one() -> Self {
        Self { axes: None, padding: None }
    }

    /// Whether requests that differ in length may run in one batch.
    pub(crate) fn pads(&self) -> bool {
        self.padding.is_some()
    }

    /// Whether a model with these tensors can run several rows at once.
    ///
    /// The dimension that counts rows must take any size. Scalar inputs, and tensors that are
    /// declared to have no rows, hold one value for the whole batch. An output of rank 0 that is not
    /// declared could depend on all rows, as a loss does.
    pub(crate) fn can_batch(inputs: &[TensorSpec], outputs: &[TensorSpec]) -> bool {
        let has_rows = |spec: &TensorSpec| {
            spec.row_dimension().is_some_and(|axis| spec.shape.get(axis) == Some(&-1))
        };
        let is_shared = |spec: &TensorSpec| spec.row_axis.is_none() || spec.shape.is_empty();
        inputs.iter().any(has_rows)
            && inputs.iter().all(|input| has_rows(input) || is_shared(input))
            && outputs.iter().all(|output| has_rows(output) || output.row_axis.is_none())
    }

    /// The spec for batches of any size of an input or output that has the shape of `spec` for one
    /// row.
    pub(crate) fn open(spec: &TensorSpec) -> TensorSpec {
        let mut spec = spec.clone();
        let axis = spec.row_axis.and_then(|axis| usize::try_from(axis).ok());
        if let Some(axis) = axis {
            spec.shape.insert(axis.min(spec.shape.len()), -1);
        }
        spec
    }

    /// Whether a request to the model may run in several parts.
    pub(crate) fn splits(&self) -> bool {
        self.axes.is_some()
    }

    /// Whether two valid requests to the model may run in one batch: they have the same inputs,
    /// which may differ in the number of rows, in the values of rows, and in a padded dimension.
    pub(crate) fn can_join(&self, one: &Job, other: &Job) -> bool {
        let Some(axes) = &self.axes else { return false };
        let can_pad = |padding: &&Arc<Padding>| {
            padding.length(one).is_some() && padding.length(other).is_some()
        };
        let padding = self.padding.as_ref().filter(can_pad);
        let mut has_rows = false;
        let mut is_alike = |(at, (a, b)): (usize, (&Tensor, &Tensor))| {
            let axis = axes.input(at, &a.name);
            has_rows |= axis.is_some();
            a.name == b.name
                && match axis {
                    Some(axis) => {
                        let padded = padding.and_then(|padding| padding.axis(&a.name));
                        a.datatype == b.datatype && differ_only(a, b, [Some(axis), padded])
                    }
                    None => a.datatype == b.datatype && a.shape == b.shape && a.data == b.data,
                }
        };
        let is_alike = one.inputs.len() == other.inputs.len()
            && one.inputs.iter().zip(&other.inputs).enumerate().all(&mut is_alike);
        is_alike && has_rows
    }

    /// Lays out parts of requests that [may be joined](Self::can_join) as one batch, followed by
    /// `padding` rows of zeros or empty strings.
    pub(crate) fn lay_out(&self, parts: &[JobRows<'_>], padding: u32) -> BatchInputs {
        let rows = parts.iter().map(|part| part.rows.end - part.rows.start).collect();
        let lengths: Option<Vec<u64>> = self
            .padding
            .as_ref()
            .and_then(|padding| parts.iter().map(|part| padding.length(part.job)).collect());
        let lengths = lengths.unwrap_or_default();
        let padded = self.padding.as_ref().zip(lengths.iter().copied().max());
        let padded = padded.map(|(padding, longest)| (padding, padding.target(longest)));
        let length = padded.map_or(0, |(_, length)| length);
        let slots = BatchSlots { layout: self.clone(), rows, padding, lengths, length };
        let inputs = parts.first().map_or(&[][..], |first| &first.job.inputs);
        let column = |(at, input): (usize, &Tensor)| {
            let axis = self.axes.as_ref().and_then(|axes| axes.input(at, &input.name));
            let of_all = if axis.is_some() { parts } else { &parts[..1] };
            let piece = |part: &JobRows<'_>| {
                let Tensor { data, shape, .. } = &part.job.inputs[at];
                Piece { data: data.clone(), shape: shape.clone(), rows: part.rows.clone() }
            };
            let pad = padded.and_then(|(padding, length)| padding.to(&input.name, length));
            Column {
                name: input.name.clone(),
                datatype: input.datatype,
                shape: input.shape.clone(),
                axis,
                pad,
                pieces: of_all.iter().map(piece).collect(),
            }
        };
        let columns = inputs.iter().enumerate().map(column).collect();
        BatchInputs { columns, slots }
    }

    /// Joins the outputs of the parts of one request. `None` if the outputs differ in more than
    /// their rows, so that they cannot be joined.
    pub(crate) fn join_outputs(&self, parts: &[Vec<Tensor>]) -> Option<Vec<Tensor>> {
        let join = |(at, first): (usize, &Tensor)| {
            let outputs: Vec<&Tensor> =
                parts.iter().map(|part| part.get(at)).collect::<Option<_>>()?;
            let axes = self.axes.as_ref()?;
            let Some(axis) = axes.output(at, &first.name) else {
                return outputs.iter().all(|output| *output == first).then(|| first.clone());
            };
            let is_alike = |output: &&Tensor| {
                output.datatype == first.datatype && differ_only(first, output, [Some(axis), None])
            };
            if !outputs.iter().all(is_alike) {
                return None;
            }
            let rows = |output: &&Tensor| {
                Rows::new(output.datatype, &output.shape, axis, output.data.clone())
            };
            let rows: Vec<Rows> = outputs.iter().map(rows).collect();
            let mut shape = first.shape.clone();
            *shape.get_mut(axis)? = rows.iter().map(|rows| u64::from(rows.all().end)).sum();
            let (name, data) = (first.name.clone(), rows::join(&rows));
            Some(Tensor { name, datatype: first.datatype, shape, data })
        };
        parts.first()?.iter().enumerate().map(join).collect()
    }

    /// The slots of `rows` requests of one row each.
    pub(crate) fn single_rows(&self, rows: u32) -> BatchSlots {
        let (rows, lengths) = (vec![1; rows as usize], Vec::new());
        BatchSlots { layout: self.clone(), rows, padding: 0, lengths, length: 0 }
    }
}

impl RowAxes {
    fn input(&self, at: usize, name: &str) -> Option<usize> {
        find(&self.inputs, at, name)
    }

    fn output(&self, at: usize, name: &str) -> Option<usize> {
        find(&self.outputs, at, name)
    }
}

/// The row axis of the tensor `name`, which is probably at index `at`: inputs that a request has
/// left out move the others. The first dimension for an unknown tensor.
fn find(axes: &[RowAxis], at: usize, name: &str) -> Option<usize> {
    let expected = axes.get(at).filter(|found| found.name == name);
    let found = expected.or_else(|| axes.iter().find(|found| found.name == name));
    found.map_or(Some(0), |found| found.axis)
}

/// Whether two tensors have the same shape, except for these dimensions.
fn differ_only(one: &Tensor, other: &Tensor, except: [Option<usize>; 2]) -> bool {
    let mut dims = one.shape.iter().zip(&other.shape).enumerate();
    one.shape.len() == other.shape.len()
        && dims.all(|(axis, (a, b))| a == b || except.contains(&Some(axis)))
}

/// Some rows of a request.
#[derive(Clone, Debug)]
pub(crate) struct JobRows<'a> {
    /// The request.
    pub(crate) job: &'a Job,
    /// The rows.
    pub(crate) rows: Range<u32>,
}

impl<'a> JobRows<'a> {
    /// All rows of a request.
    pub(crate) fn all(job: &'a Job) -> Self {
        Self { job, rows: 0..job.rows }
    }
}

/// The inputs of a batch, not joined yet.
#[derive(Debug)]
pub(crate) struct BatchInputs {
    columns: Vec<Column>,
    slots: BatchSlots,
}

/// The inputs of a batch that may get more requests, as far as they are joined.
#[derive(Debug, Default)]
pub(crate) struct JoinedAhead {
    buffers: KeptBuffers,
    /// By input.
    columns: Vec<Option<FirstRows>>,
}

impl JoinedAhead {
    /// Nothing is joined yet.
    pub(crate) fn new(buffers: KeptBuffers) -> Self {
        Self { buffers, columns: Vec::new() }
    }

    /// The rows that are joined of the input at this index.
    fn take(&mut self, index: usize) -> Option<FirstRows> {
        self.columns.get_mut(index)?.take()
    }
}

impl BatchInputs {
    /// Joins the requests. Returns the model's inputs, and which rows belong to which request.
    pub(crate) fn join(self) -> (Vec<Tensor>, BatchSlots) {
        self.join_rest(JoinedAhead::default())
    }

    /// Joins the requests as far as they are not joined yet.
    pub(crate) fn join_rest(self, mut ahead: JoinedAhead) -> (Vec<Tensor>, BatchSlots) {
        let Self { columns, slots } = self;
        let rows = (slots.rows(), slots.padding);
        let join = |(index, column): (usize, Column)| {
            let earlier = ahead.take(index);
            column.join(index, &ahead.buffers, earlier, rows)
        };
        (columns.into_iter().enumerate().map(join).collect(), slots)
    }

    /// Joins the requests, so that more can be added.
    pub(crate) fn join_ahead(&self, ahead: &mut JoinedAhead) {
        let join = |(index, column): (usize, &Column)| {
            let earlier = ahead.take(index);
            column.join_first(index, &ahead.buffers, earlier)
        };
        ahead.columns = self.columns.iter().enumerate().map(join).collect();
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
    /// The length of each request along the padded dimension; empty without padding.
    lengths: Vec<u64>,
    /// The length of the batch along the padded dimension; 0 without padding.
    length: u64,
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

    /// Splits a batch's outputs by request, in order. Rows of padding are dropped, and outputs that
    /// follow the length are cut to the length of each request. Every request gets a copy of an
    /// output without rows.
    pub(crate) fn split(&self, outputs: Vec<Tensor>) -> Result<Vec<Vec<Tensor>>, UnevenOutput> {
        let Some(axes) = &self.layout.axes else { return Ok(vec![outputs]) };
        let total = self.rows();
        let empty = || Vec::with_capacity(outputs.len());
        let mut requests: Vec<Vec<Tensor>> = self.rows.iter().map(|_| empty()).collect();
        for (at, output) in outputs.into_iter().enumerate() {
            let axis = axes.output(at, &output.name);
            if let Some(axis) = axis
                && output.shape.get(axis) != Some(&u64::from(total))
            {
                let Tensor { name, shape, .. } = output;
                return Err(UnevenOutput { name, shape, rows: total, axis });
            }
            if let ([request], 0) = (requests.as_mut_slice(), self.padding) {
                request.push(self.cut(0, output));
                continue;
            }
            let Some(axis) = axis else {
                for (at, request) in requests.iter_mut().enumerate() {
                    request.push(self.cut(at, output.clone()));
                }
                continue;
            };
            let Tensor { name, datatype, shape, data } = output;
            let all = Rows::new(datatype, &shape, axis, data);
            let mut next = 0;
            for (at, (request, &rows)) in requests.iter_mut().zip(&self.rows).enumerate() {
                let data = all.take(&(next..next + rows));
                next += rows;
                let mut shape = shape.clone();
                shape[axis] = u64::from(rows);
                request.push(self.cut(at, Tensor { name: name.clone(), datatype, shape, data }));
            }
        }
        Ok(requests)
    }

    /// An output of the request at this index, without what was computed from its padding.
    fn cut(&self, request: usize, mut output: Tensor) -> Tensor {
        let padding = self.layout.padding.as_ref();
        let axis = padding.and_then(|padding| padding.cut_axis(&output.name));
        let (Some(axis), Some(&length)) = (axis, self.lengths.get(request)) else { return output };
        if length < self.length && output.shape.get(axis) == Some(&self.length) {
            let dimension = Rows::new(output.datatype, &output.shape, axis, output.data);
            output.data = dimension.take(&(0..u32::try_from(length).unwrap_or(u32::MAX)));
            output.shape[axis] = length;
        }
        output
    }
}

/// An output that does not hold the batch's rows and therefore cannot be split among requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("output {name:?} of shape {shape:?} does not hold {rows} rows in dimension {axis}")]
pub struct UnevenOutput {
    /// The output's name.
    pub name: String,
    /// The output's shape.
    pub shape: Vec<u64>,
    /// Rows of the batch.
    pub rows: u32,
    /// The dimension that should count the rows; 0 is the first.
    pub axis: usize,
}

#[cfg(test)]
mod tests;
