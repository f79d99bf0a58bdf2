//! What users send, and what they must hear.

use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method, Uri};

/// Makes numbered requests and judges the answers to them. Called from one thread, on which every
/// microsecond spent is one the server under test may be waiting for.
pub trait Workload: Send + Sync {
    /// The request with this number; numbers count from 0 and are never repeated within a run.
    fn request(&self, index: u64) -> Prepared;

    /// Whether a 200 is the answer to the request with this number; if not, what is wrong with it.
    fn check(&self, index: u64, answer: &Answer) -> Result<(), String>;
}

/// One HTTP request, ready to be sent to any target. Cloning shares the body.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// How: inference is a POST.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// All headers but `host` and `content-length`.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// When the user hangs up on purpose, if there is no answer by then.
    pub hang_up: Option<Duration>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}
