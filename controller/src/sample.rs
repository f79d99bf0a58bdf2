//! What workers say in tests.

use batchfleet_broker::{Announcement, Batching, ModelSpec, QueueName, WorkerId};

/// The word of a worker that serves `queue` and has yet to say how fast.
pub(crate) fn word(worker: u128, queue: QueueName) -> Announcement {
    let spec = ModelSpec {
        queue,
        platform: String::new(),
        backend: String::new(),
        max_batch: std::num::NonZeroU32::new(64),
        inputs: Vec::new(),
        outputs: Vec::new(),
    };
    Announcement::new(WorkerId(worker), spec)
}

/// The same of a worker with L(b) = 8 + 2 b milliseconds, so many times: of one, 421 rows a second at
/// 17 rows a batch within its target of 100 ms.
pub(crate) fn measured(worker: u128, queue: QueueName, slower: f64) -> Announcement {
    let curve = [1_u32, 8, 64].map(|rows| (rows, slower * (8.0 + 2.0 * f64::from(rows)))).to_vec();
    let batching = Batching { slo_ms: 100.0, curve, ..Batching::default() };
    let capacity = 400.0 / slower;
    Announcement { capacity, batching: Some(batching), ..word(worker, queue) }
}
