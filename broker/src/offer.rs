//! Tensors that do not travel through the queue: the gateway offers the inputs of a job, and a worker
//! fetches them; and the worker pushes the outputs to the gateway, before it replies.
//!
//! A worker sends one request for all jobs of a gateway in a claim, or for all replies to a gateway of
//! a batch, over a plain TCP connection that both keep for the next request. All numbers are
//! little-endian.
//!
//! ```text
//! fetch    "BFT" · 1 u8 · count u16 · count times (id u128 · key u128)
//! answer   count times (length u64 · the data of all inputs, one after the other)
//!
//! push     "BFT" · 2 u8 · count u16 · count times (id u128 · key u128 · length u64)
//! answer   count times u8: 1 if the gateway takes the outputs
//! then     the data of all outputs of each of these jobs, one after the other
//! answer   1 u8, once all have arrived
//! ```
//!
//! The answers have the order of the request. [`GONE`] as a length means that no request with this
//! id and key waits: it was answered or given up, or never existed.

use std::{fmt, io, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use xxhash_rust::xxh3::Xxh3;

use crate::{RequestId, Tensor};

/// Where the inputs of a job can be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The address at which the gateway answers workers.
    pub address: SocketAddr,
    /// The key without which the gateway does not hand out the inputs.
    pub key: OfferKey,
    /// Bytes of data of each input; empty if the data travels with the job.
    pub lengths: Vec<u64>,
}

/// 128 random bits, drawn for each offer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OfferKey(pub u128);

impl OfferKey {
    /// Draws a new key.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

/// Hides the key, which must not be logged.
impl fmt::Debug for OfferKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfferKey")
    }
}

impl Offer {
    /// Offers `inputs` at `address` under a new key.
    pub fn of(inputs: &[Tensor], address: SocketAddr) -> Self {
        let lengths = inputs.iter().map(|input| input.data.len() as u64).collect();
        Self { address, key: OfferKey::random(), lengths }
    }

    /// Bytes of data of all inputs; `None` if the sum overflows.
    pub fn bytes(&self) -> Option<u64> {
        self.lengths.iter().try_fold(0_u64, |sum, length| sum.checked_add(*length))
    }

    /// Whether the data of inputs does not travel with the job.
    pub fn has_inputs(&self) -> bool {
        !self.lengths.is_empty()
    }

    /// Whether `inputs` are offered and lack their data.
    pub(crate) fn is_owed(&self, inputs: &[Tensor]) -> bool {
        let lengths = inputs.iter().map(|input| input.data.len() as u64);
        self.has_inputs() && !lengths.eq(self.lengths.iter().copied())
    }
}

/// What a gateway has taken of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes of data of each output.
    pub lengths: Vec<u64>,
    /// The [digest](data_digest) of the data of all outputs.
    pub digest: u64,
}

impl Pushed {
    /// The lengths and digest of `outputs`.
    pub fn of(outputs: &[Tensor]) -> Self {
        let lengths = outputs.iter().map(|output| output.data.len() as u64).collect();
        Self { lengths, digest: data_digest(outputs.iter().map(|output| &output.data[..])) }
    }
}

/// The digest of data that arrives in pieces.
pub fn data_digest<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = Xxh3::new();
    pieces.for_each(|piece| hasher.update(piece));
    hasher.digest()
}

/// Divides the data of all tensors among them, without copies. `None` if the lengths do not match.
pub fn fill_in(tensors: &[Tensor], lengths: &[u64], mut data: Bytes) -> Option<Vec<Tensor>> {
    if tensors.len() != lengths.len() {
        return None;
    }
    let mut filled = Vec::with_capacity(tensors.len());
    for (tensor, &length) in tensors.iter().zip(lengths) {
        let length = usize::try_from(length).ok().filter(|length| *length <= data.len())?;
        let Tensor { name, datatype, shape, .. } = tensor.clone();
        filled.push(Tensor { name, datatype, shape, data: data.split_to(length) });
    }
    data.is_empty().then_some(filled)
}

/// The most bytes that are allocated before any have arrived.
const AT_FIRST: usize = 16 << 20;

/// Reads `length` bytes of data.
///
/// # Errors
///
/// The connection is closed too early, or fails.
pub async fn read_data(stream: impl AsyncRead + Unpin, length: usize) -> io::Result<Bytes> {
    let mut data = BytesMut::with_capacity(length.min(AT_FIRST));
    let mut stream = stream.take(length as u64);
    while data.len() < length {
        if data.len() == data.capacity() {
            data.reserve((length - data.len()).min(data.len()));
        }
        if stream.read_buf(&mut data).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(data.freeze())
}

/// Bytes of a request before its items.
pub const HEAD: usize = 6;
/// Bytes of an item of a request for inputs.
pub const ITEM: usize = 32;
/// Bytes of an item of a request that pushes outputs.
pub const PUSHED_ITEM: usize = ITEM + 8;
/// The most items of a request.
pub const MOST_ITEMS: usize = 1024;
/// The length of inputs that the gateway does not have, or not under this key.
pub const GONE: u64 = u64::MAX;
/// The answers to a push.
pub const TAKES: u8 = 1;
/// The gateway does not take the outputs.
pub const REFUSES: u8 = 0;

const MAGIC: [u8; 3] = *b"BFT";

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::FromRepr)]
#[repr(u8)]
pub enum RequestKind {
    /// The worker wants inputs.
    Fetch = 1,
    /// The worker has outputs.
    Push = 2,
}

/// One item of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The request whose inputs are wanted, or whose outputs are pushed.
    pub id: RequestId,
    /// The key of the offer.
    pub key: OfferKey,
}

/// Encodes a request for inputs, of at most [`MOST_ITEMS`] items.
pub fn encode_fetch(items: impl Iterator<Item = Item>) -> Vec<u8> {
    encode(RequestKind::Fetch, items.map(|item| (item, None)))
}

/// Encodes a request that pushes outputs of these lengths, of at most [`MOST_ITEMS`] items.
pub fn encode_push(items: impl Iterator<Item = (Item, u64)>) -> Vec<u8> {
    encode(RequestKind::Push, items.map(|(item, length)| (item, Some(length))))
}

fn encode(kind: RequestKind, items: impl Iterator<Item = (Item, Option<u64>)>) -> Vec<u8> {
    let mut request = Vec::from(MAGIC);
    request.extend([kind as u8, 0, 0]);
    let mut count = 0_u16;
    for (Item { id, key }, length) in items.take(MOST_ITEMS) {
        request.extend(id.0.to_le_bytes());
        request.extend(key.0.to_le_bytes());
        request.extend(length.into_iter().flat_map(u64::to_le_bytes));
        count += 1;
    }
    request[HEAD - 2..HEAD].copy_from_slice(&count.to_le_bytes());
    request
}

/// Reads the head of a request. Returns the number of its items, at least 1 and at most
/// [`MOST_ITEMS`]; `None` if the head is not one.
pub fn decode_head(head: [u8; HEAD]) -> Option<(RequestKind, usize)> {
    let [a, b, c, kind, low, high] = head;
    let count = usize::from(u16::from_le_bytes([low, high]));
    let is_valid = [a, b, c] == MAGIC && (1..=MOST_ITEMS).contains(&count);
    Some((RequestKind::from_repr(kind).filter(|_| is_valid)?, count))
}

/// Reads an item of a request for inputs.
pub fn decode_item(item: [u8; ITEM]) -> Item {
    let [id, key] = [0, 16].map(|at| little_endian(&item[at..at + 16]));
    Item { id: RequestId(id), key: OfferKey(key) }
}

/// Reads an item of a request that pushes outputs, with the length of the outputs.
pub fn decode_pushed_item(item: [u8; PUSHED_ITEM]) -> (Item, u64) {
    let [id, key] = [0, 16].map(|at| little_endian(&item[at..at + 16]));
    let length = item[ITEM..].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
    (Item { id: RequestId(id), key: OfferKey(key) }, length)
}

fn little_endian(bytes: &[u8]) -> u128 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u128::from(byte))
}
