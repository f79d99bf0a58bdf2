//! The requests of the users, and the check of the answers.

use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method, Uri};

/// Makes numbered requests and checks the answers. The methods run on the thread of the load and
/// should be fast: a slow call delays other users.
pub trait Workload: Send + Sync {
    /// The request with this number. Numbers count from 0 and are unique within a run.
    fn request(&self, index: u64) -> Prepared;

    /// Checks an answer with status 200 to the request with this number.
    ///
    /// # Errors
    ///
    /// A description of the mistake in the answer.
    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String>;
}

/// An HTTP request to any target. Clones share the body.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The method: POST for inference.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// The headers without `host` and `content-length`.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Time without answer after which the user hangs up on purpose.
    pub hang_up: Option<Duration>,
}

/// Headers and body of an HTTP response.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}
