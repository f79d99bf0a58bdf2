//! Announcements for tests.

use std::num::NonZeroU32;

use batchfleet_broker::{Announcement, Batching, ModelSpec, QueueName, WorkerId};

/// Returns the announcement of a worker of `queue` that has not measured any batch.
pub(crate) fn unmeasured(worker: u128, queue: QueueName) -> Announcement {
    let spec = ModelSpec {
        queue,
        platform: String::new(),
        backend: String::new(),
        max_batch: NonZeroU32::new(64),
        inputs: Vec::new(),
        outputs: Vec::new(),
    };
    Announcement::new(WorkerId(worker), spec)
}

/// Returns the announcement of a worker with L(b) = `slower` · (8 + 2 b) milliseconds. At `slower`
/// = 1 the worker serves 421 rows per second in batches of 17 rows, within its target of 100 ms.
pub(crate) fn measured(worker: u128, queue: QueueName, slower: f64) -> Announcement {
    let curve = [1_u32, 8, 64].map(|rows| (rows, slower * (8.0 + 2.0 * f64::from(rows)))).to_vec();
    let batching = Batching { slo_ms: 100.0, curve, ..Batching::default() };
    let capacity = 400.0 / slower;
    Announcement { capacity, batching: Some(batching), ..unmeasured(worker, queue) }
}
