//! The bytes of a request body, and the problem of a body that is too large.

use batchfleet_oip::Problem;

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
