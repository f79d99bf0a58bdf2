//! A simulated request.

/// A request of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// When it arrived, in seconds since the start.
    pub arrived: f64,
    /// The length of its row; 1 if all rows have one length.
    pub length: u64,
}

/// Returns the length of the longest row.
pub(crate) fn longest(requests: &[Request]) -> u64 {
    requests.iter().map(|request| request.length).max().unwrap_or(1)
}
