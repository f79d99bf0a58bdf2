//! What gateways count of the load, for whoever decides how many workers there should be.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::QueueName;

/// What one boot of a gateway has counted of one queue since it started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// The queue.
    pub queue: QueueName,
    /// Requests that were the fleet's to answer: those accepted, and those refused for lack of
    /// room. Not those that were wrong, or more than their client's share.
    pub offered: u64,
    /// Those of them that were refused.
    pub refused: u64,
    /// Rows a request has, on average.
    pub rows_per_request: f64,
    /// Those that ended, whatever became of them, and were not given up by their caller.
    pub answered: u64,
    /// How long they took: upper bounds in seconds, rising, and how many took so long but longer
    /// than the bound before. Those that took longer than the last are in none.
    pub seconds: Vec<(f64, u64)>,
}

/// What one boot of a gateway said last.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficReport {
    /// Who, as [`GatewayId`](crate::GatewayId) prints.
    pub gateway: String,
    /// How long ago.
    pub age: Duration,
    /// What it has counted, by queue.
    pub traffic: Vec<Traffic>,
}
