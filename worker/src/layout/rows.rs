//! The bytes of rows in tensors whose rows lie along any dimension. Pure.
//!
//! A tensor of shape `[a, b, R, c]` whose third dimension counts R rows is a sequence of a · b
//! blocks, each of which contains c elements of every row. If the rows lie along the first
//! dimension, there is one block, and consecutive rows are a slice of the bytes.
//!
//! Any dimension can be seen this way, so that filling up a dimension is adding rows to it, and cutting
//! the dimension is taking some of its rows.

use std::{cell::OnceCell, ops::Range};

use batchfleet_broker::Datatype;
use bytes::Bytes;

use crate::tensors;

/// A tensor as a sequence of rows.
#[derive(Debug)]
pub(super) struct Rows {
    data: Bytes,
    datatype: Datatype,
    /// Number of blocks.
    blocks: usize,
    /// Number of rows.
    count: u32,
    /// Elements of one row in one block.
    inner: usize,
    /// For strings, where each element begins in `data`.
    offsets: OnceCell<Vec<usize>>,
}

impl Rows {
    /// The rows of a tensor that has `shape` and `data`, and whose dimension `axis` counts rows.
    pub(super) fn new(datatype: Datatype, shape: &[u64], axis: usize, data: Bytes) -> Self {
        let (outer, rest) = shape.split_at_checked(axis).unwrap_or((shape, &[]));
        let (count, inner) = rest.split_first().unwrap_or((&0, &[]));
        Self {
            data,
            datatype,
            blocks: product(outer),
            count: u32::try_from(*count).unwrap_or(u32::MAX),
            inner: product(inner),
            offsets: OnceCell::new(),
        }
    }

    /// All rows.
    pub(super) fn all(&self) -> Range<u32> {
        0..self.count
    }

    /// The number of elements of one row in one block.
    pub(super) fn elements(&self) -> usize {
        self.inner
    }

    /// Whether consecutive rows follow each other in the bytes.
    pub(super) fn is_one_block(&self) -> bool {
        self.blocks == 1
    }

    /// The bytes of the rows in `range`: a slice if the tensor has a single block.
    pub(super) fn take(&self, range: &Range<u32>) -> Bytes {
        if self.is_one_block() {
            return self.data.slice(self.place(0, range));
        }
        let mut taken = Vec::with_capacity(self.share(range));
        (0..self.blocks).for_each(|block| self.write(block, range, &mut taken));
        taken.into()
    }

    /// Appends the rows in `range` of a block.
    pub(super) fn write(&self, block: usize, range: &Range<u32>, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.data[self.place(block, range)]);
    }

    /// Where the rows in `range` lie in a block.
    fn place(&self, block: usize, range: &Range<u32>) -> Range<usize> {
        if self.blocks == 1 && *range == self.all() {
            return 0..self.data.len();
        }
        let row = |row: u32| block.saturating_mul(self.count as usize).saturating_add(row as usize);
        let begin = |at: u32| self.position(row(at).saturating_mul(self.inner));
        begin(range.start)..begin(range.end)
    }

    /// Where an element begins.
    fn position(&self, element: usize) -> usize {
        let end = self.data.len();
        if let Some(size) = self.datatype.size() {
            return element.saturating_mul(size).min(end);
        }
        let offsets = self.offsets.get_or_init(|| tensors::string_offsets(&self.data));
        offsets.get(element).copied().unwrap_or(end)
    }

    /// About the number of bytes that the rows in `range` take.
    fn share(&self, range: &Range<u32>) -> usize {
        let rows = self.count.max(1) as usize;
        self.data.len().div_ceil(rows).saturating_mul(range.len())
    }
}

/// The number of elements in these dimensions.
pub(super) fn product(dims: &[u64]) -> usize {
    let dims = dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX));
    dims.fold(1, usize::saturating_mul)
}

/// Joins all rows of several tensors, whose shapes may differ in the number of rows only. A slice if
/// there is one tensor with a single block.
pub(super) fn join(parts: &[Rows]) -> Bytes {
    let Some(first) = parts.first() else { return Bytes::new() };
    if parts.len() == 1 {
        return first.take(&first.all());
    }
    let mut joined = Vec::with_capacity(parts.iter().map(|rows| rows.data.len()).sum());
    for block in 0..first.blocks {
        for rows in parts {
            rows.write(block, &rows.all(), &mut joined);
        }
    }
    joined.into()
}
