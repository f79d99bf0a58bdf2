//! One input of a batch: how the inputs of its requests are joined in memory that stays between
//! batches. Pure, but for the memory.
//!
//! Rows along the first dimension follow each other, so that the first requests of a batch can be
//! joined while more may be added. Other inputs are joined as a whole.

use std::ops::Range;

use batchfleet_broker::{Datatype, Tensor};
use bytes::Bytes;

use super::{
    filled::{FilledRows, fill},
    rows::product,
};
use crate::{
    kept_buffers::{KeptBuffer, KeptBuffers},
    padding::PadTo,
    tensors,
};

/// One input of a batch, in pieces from its requests.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) datatype: Datatype,
    /// The shape of the first request's input.
    pub(super) shape: Vec<u64>,
    /// The dimension that counts rows. `None` if one value holds for the whole batch.
    pub(super) axis: Option<usize>,
    /// How each request's input is padded.
    pub(super) pad: Option<PadTo>,
    /// The rows of each request, in order, or the one value of the batch.
    pub(super) pieces: Vec<Piece>,
}

/// Some rows of one request's input.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// The bytes of the request's whole input.
    pub(super) data: Bytes,
    /// The shape of the request's whole input.
    pub(super) shape: Vec<u64>,
    /// The rows that run in the batch.
    pub(super) rows: Range<u32>,
}

/// The first rows of one input of a batch, joined.
#[derive(Debug)]
pub(super) struct FirstRows {
    buffer: KeptBuffer,
    /// Where the rows come from.
    pieces: Vec<Piece>,
    pad: Option<PadTo>,
}

impl Column {
    /// The bytes of all rows before they are joined.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(Piece::bytes).sum()
    }

    /// Joins the rows, so that more can follow. `None` if that is impossible, or if there is nothing
    /// to join. `earlier` are the first rows, if they are joined.
    pub(super) fn join_first(
        &self,
        index: usize,
        buffers: &KeptBuffers,
        earlier: Option<FirstRows>,
    ) -> Option<FirstRows> {
        let axis = self.axis?;
        let is_longer = |earlier: &FirstRows| earlier.pieces.len() > self.pieces.len();
        if self.pieces.len() < 2
            || !self.is_one_block(axis)
            || earlier.as_ref().is_some_and(is_longer)
        {
            return earlier;
        }
        let mut first = self.first_rows(index, buffers, earlier, 0);
        for piece in &self.pieces[first.pieces.len()..] {
            self.filled(piece, axis).write(0, first.buffer.bytes());
            first.pieces.push(piece.clone());
        }
        Some(first)
    }

    /// Joins the rows, followed by `padding` rows of zeros or empty strings. Returns the input of a
    /// batch of `rows` rows in all.
    pub(super) fn join(
        self,
        index: usize,
        buffers: &KeptBuffers,
        earlier: Option<FirstRows>,
        (rows, padding): (u32, u32),
    ) -> Tensor {
        let Some(axis) = self.axis else {
            let data = self.pieces.into_iter().next().map(|piece| piece.data).unwrap_or_default();
            return Tensor { name: self.name, datatype: self.datatype, shape: self.shape, data };
        };
        let data = self.slice(axis, padding).unwrap_or_else(|| {
            let mut first = self.first_rows(index, buffers, earlier, padding);
            let joined = first.buffer.bytes();
            for block in 0..self.blocks(axis) {
                for piece in &self.pieces[first.pieces.len()..] {
                    self.filled(piece, axis).write(block, joined);
                }
                self.add_zeros(axis, padding, joined);
            }
            first.buffer.share()
        });
        let mut shape = self.padded_shape();
        shape[axis] = u64::from(rows);
        Tensor { name: self.name, datatype: self.datatype, shape, data }
    }

    /// The bytes of the batch's input if they need not be copied: they are those of one request.
    fn slice(&self, axis: usize, padding: u32) -> Option<Bytes> {
        match &self.pieces[..] {
            [piece] if padding == 0 => self.filled(piece, axis).slice(),
            _ => None,
        }
    }

    /// The rows that are joined, if they are the first of this batch; else an empty buffer with room
    /// for all rows.
    fn first_rows(
        &self,
        index: usize,
        buffers: &KeptBuffers,
        earlier: Option<FirstRows>,
        padding: u32,
    ) -> FirstRows {
        earlier.filter(|earlier| earlier.begin(self)).unwrap_or_else(|| FirstRows {
            buffer: buffers.take(index, self.joined_bytes(padding)),
            pieces: Vec::new(),
            pad: self.pad.clone(),
        })
    }

    fn filled(&self, piece: &Piece, axis: usize) -> FilledRows<'_> {
        let input = (self.datatype, &piece.shape[..], piece.data.clone());
        FilledRows::new(input, axis, piece.rows.clone(), self.pad.as_ref())
    }

    fn add_zeros(&self, axis: usize, rows: u32, joined: &mut Vec<u8>) {
        if rows > 0 {
            let inner = product(&self.padded_shape()[axis + 1..]);
            let size = self.datatype.size().unwrap_or(tensors::LENGTH);
            fill(&[0], inner.saturating_mul(rows as usize).saturating_mul(size), joined);
        }
    }

    /// The shape of the first request's input, padded.
    fn padded_shape(&self) -> Vec<u64> {
        let mut shape = self.shape.clone();
        if let Some(PadTo { axis, length, .. }) = self.pad {
            shape[axis] = length;
        }
        shape
    }

    fn blocks(&self, axis: usize) -> usize {
        product(&self.padded_shape()[..axis])
    }

    fn is_one_block(&self, axis: usize) -> bool {
        self.blocks(axis) == 1
    }

    /// The bytes of the joined input; about, for strings.
    fn joined_bytes(&self, padding: u32) -> usize {
        let element = self.datatype.size().unwrap_or(tensors::LENGTH);
        let mut shape = self.padded_shape();
        let Some(axis) = self.axis else { return self.bytes() };
        shape[axis] = self.pieces.iter().map(|piece| piece.rows.len() as u64).sum();
        shape[axis] += u64::from(padding);
        let numbers = product(&shape).saturating_mul(element);
        if self.datatype.size().is_some() { numbers } else { numbers + self.bytes() }
    }
}

impl Piece {
    /// About the bytes of the rows.
    fn bytes(&self) -> usize {
        let all = self.shape.first().map_or(1, |&rows| product(&[rows])).max(1);
        if self.rows.len() >= all {
            self.data.len()
        } else {
            self.data.len() / all * self.rows.len()
        }
    }

    /// Whether these are the same rows of the same request. The bytes of two requests never lie at
    /// the same place while both are alive.
    fn is(&self, other: &Self) -> bool {
        self.data.as_ptr() == other.data.as_ptr()
            && self.data.len() == other.data.len()
            && self.rows == other.rows
            && self.shape == other.shape
    }
}

impl AsRef<[u8]> for FirstRows {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}

impl FirstRows {
    /// Whether these are the first rows of the batch.
    fn begin(&self, batch: &Column) -> bool {
        let lengths = [&self.pad, &batch.pad].map(|pad| pad.as_ref().map(|pad| pad.length));
        self.pieces.len() <= batch.pieces.len()
            && self.pieces.iter().zip(&batch.pieces).all(|(one, other)| one.is(other))
            && lengths[0] == lengths[1]
    }
}
