//! Rows of one request's input, which are filled up along a dimension while they are written to the
//! input of a batch. So no byte of an input is copied twice. Pure.

use std::ops::Range;

use batchfleet_broker::Datatype;
use bytes::Bytes;

use super::rows::{Rows, product};
use crate::padding::PadTo;

/// Some rows of a request's input.
pub(super) enum FilledRows<'a> {
    /// Rows that need no values.
    Whole { rows: Rows, range: Range<u32> },
    /// Rows whose own dimension is filled up.
    Within {
        /// The input as a sequence of rows of the dimension.
        dimension: Rows,
        /// Rows of the request.
        count: usize,
        /// Blocks of the dimension in each row.
        per_row: usize,
        range: Range<u32>,
        /// Elements that are added to each block.
        added: usize,
        value: &'a [u8],
    },
    /// Rows that lie within the dimension that is filled up.
    Around {
        rows: Rows,
        range: Range<u32>,
        /// The size of the dimension in the request and in the batch.
        sizes: [usize; 2],
        /// Blocks of rows for each place of the dimension.
        per_place: usize,
        value: &'a [u8],
    },
}

impl<'a> FilledRows<'a> {
    /// The rows in `range` of a tensor whose dimension `axis` counts rows, filled up as `pad` says.
    pub(super) fn new(
        (datatype, shape, data): (Datatype, &[u64], Bytes),
        axis: usize,
        range: Range<u32>,
        pad: Option<&'a PadTo>,
    ) -> Self {
        let lacks = |pad: &&PadTo| shape.get(pad.axis).is_some_and(|&size| size < pad.length);
        let Some(pad) = pad.filter(lacks) else {
            return Self::Whole { rows: Rows::new(datatype, shape, axis, data), range };
        };
        let sizes = [shape[pad.axis], pad.length].map(|size| product(&[size]));
        let value = &pad.fill[..];
        if pad.axis < axis {
            let rows = Rows::new(datatype, shape, axis, data);
            let per_place = product(&shape[pad.axis + 1..axis]);
            return Self::Around { rows, range, sizes, per_place, value };
        }
        let dimension = Rows::new(datatype, shape, pad.axis, data);
        Self::Within {
            count: product(&shape[axis..=axis]),
            per_row: product(&shape[axis + 1..pad.axis]),
            range,
            added: dimension.elements().saturating_mul(sizes[1] - sizes[0]),
            value,
            dimension,
        }
    }

    /// Appends the rows of one block of the batch's input.
    pub(super) fn write(&self, block: usize, into: &mut Vec<u8>) {
        match self {
            Self::Whole { rows, range } => rows.write(block, range, into),
            Self::Within { dimension, count, per_row, range, added, value } => {
                let at = |row: u32| (block * count + row as usize) * per_row;
                for inner in at(range.start)..at(range.end) {
                    dimension.write(inner, &dimension.all(), into);
                    fill(value, *added, into);
                }
            }
            Self::Around { rows, range, sizes: [own, length], per_place, value } => {
                let (place, within) = (block / per_place, block % per_place);
                let (outer, place) = (place / length, place % length);
                if place < *own {
                    rows.write((outer * own + place) * per_place + within, range, into);
                } else {
                    fill(value, rows.elements().saturating_mul(range.len()), into);
                }
            }
        }
    }

    /// The bytes of the rows in the request, where they follow each other.
    pub(super) fn slice(&self) -> Option<Bytes> {
        match self {
            Self::Whole { rows, range } if rows.is_one_block() => Some(rows.take(range)),
            _ => None,
        }
    }
}

/// Appends `elements` elements of this value.
pub(super) fn fill(value: &[u8], elements: usize, into: &mut Vec<u8>) {
    let bytes = value.len().saturating_mul(elements);
    match value {
        [first, rest @ ..] if rest.iter().all(|byte| byte == first) => {
            into.resize(into.len() + bytes, *first);
        }
        _ => {
            into.reserve(bytes);
            (0..elements).for_each(|_| into.extend_from_slice(value));
        }
    }
}
