//! Traffic reports of gateways, from which the controller decides on the number of workers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::QueueName;

/// The requests for one queue that one gateway boot has counted since startup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// The queue.
    pub queue: QueueName,
    /// Requests that were accepted, or refused because the fleet was full. Invalid requests and
    /// requests beyond a client's share are not counted.
    pub offered: u64,
    /// Requests of `offered` that were refused.
    pub refused: u64,
    /// Rows per request, on average.
    pub rows_per_request: f64,
    /// Requests that ended with any outcome, except requests abandoned by their caller.
    pub answered: u64,
    /// Histogram of their duration: ascending upper bounds in seconds, each with the number of
    /// requests between the previous bound and this bound. Requests above the last bound are not
    /// included.
    pub seconds: Vec<(f64, u64)>,
}

/// The last report of one gateway boot.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficReport {
    /// The gateway, as [`GatewayId`](crate::GatewayId) prints.
    pub gateway: String,
    /// The age of the report.
    pub age: Duration,
    /// The counts of the gateway, one per queue.
    pub traffic: Vec<Traffic>,
}
