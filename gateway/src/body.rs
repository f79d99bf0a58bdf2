//! Bodies of requests, with limits on size, receive time and total memory.

mod inflate;
mod read;

use batchfleet_oip::Problem;

pub(crate) use self::{
    inflate::Encoding,
    read::{Bounds, read},
};
use crate::memory::MemoryShare;

/// A request body, and its share of the budget.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) bytes: bytes::Bytes,
    pub(crate) share: MemoryShare,
}

/// The problem of a body larger than `limit` bytes: status 413.
pub(crate) fn too_large(limit: usize) -> Problem {
    let message = format!("the body is larger than {limit} bytes");
    Problem { status: 413, code: "too_large", message }
}
