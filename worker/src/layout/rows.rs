//! The bytes of rows in tensors whose rows lie along any dimension. Pure.
//!
//! A tensor of shape `[a, b, R, c]` whose third dimension counts R rows is a sequence of a · b
//! blocks, each of which contains c elements of every row. If the rows lie along the first
//! dimension, there is one block, and consecutive rows are a slice of the bytes.
//!
//! Any dimension can be seen this way, so that padding a dimension is joining rows to it, and
//! cutting the dimension is taking some of its rows.

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
        let product = |dims: &[u64]| {
            let dims = dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX));
            dims.fold(1, usize::saturating_mul)
        };
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

    /// The bytes of the rows in `range`: a slice if the tensor has a single block.
    pub(super) fn take(&self, range: &Range<u32>) -> Bytes {
        if self.blocks == 1 {
            return self.data.slice(self.place(0, range));
        }
        let mut taken = Vec::with_capacity(self.share(range));
        for block in 0..self.blocks {
            taken.extend_from_slice(&self.data[self.place(block, range)]);
        }
        taken.into()
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

/// Joins rows of several tensors, whose shapes may differ in the number of rows only, followed by
/// `padding` rows of zeros or empty strings. A slice if the result is part of one tensor's bytes.
pub(super) fn join(parts: &[(Rows, Range<u32>)], padding: u32) -> Bytes {
    let Some((first, _)) = parts.first() else { return Bytes::new() };
    let size = first.datatype.size().unwrap_or(tensors::LENGTH);
    join_filled(parts, padding, &vec![0; size])
}

/// The same with rows of `fill` added, the bytes of one element.
pub(super) fn join_filled(parts: &[(Rows, Range<u32>)], padding: u32, fill: &[u8]) -> Bytes {
    let Some((first, range)) = parts.first() else { return Bytes::new() };
    if parts.len() == 1 && padding == 0 {
        return first.take(range);
    }
    let added = fill.repeat(first.inner.saturating_mul(padding as usize));
    let bytes: usize = parts.iter().map(|(rows, range)| rows.share(range)).sum();
    let mut joined = Vec::with_capacity(bytes + added.len().saturating_mul(first.blocks));
    for block in 0..first.blocks {
        for (rows, range) in parts {
            joined.extend_from_slice(&rows.data[rows.place(block, range)]);
        }
        joined.extend_from_slice(&added);
    }
    joined.into()
}
