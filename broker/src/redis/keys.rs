//! Every name this crate uses inside Redis.
//!
//! What one `MULTI` touches shares a hash tag (the part in braces), so that it lives on one node of
//! a Redis Cluster.

use crate::{GatewayId, QueueName};

/// The consumer group of every queue.
pub(super) const GROUP: &str = "workers";

/// The one field of a queue's entry: the job's bytes.
pub(super) const JOB: &str = "j";

/// Hash of what workers announced: worker to JSON.
pub(super) const WORKERS: &str = "bf:{fleet}:workers";

/// The stream of jobs for one model version.
pub(super) fn queue(queue: &QueueName) -> String {
    format!("bf:{{{queue}}}:q")
}

/// The channel on which one boot of a gateway hears replies.
pub(super) fn replies(gateway: GatewayId) -> String {
    format!("bf:reply:{gateway}")
}

/// The key that exists while a worker lives.
pub(super) fn live(worker: &str) -> String {
    format!("bf:{{fleet}}:live:{worker}")
}
