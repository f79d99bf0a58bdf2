//! The names of all keys, channels and groups in Redis.
//!
//! Keys used in one `MULTI` share a hash tag (the part in braces), so that they are on the same
//! node of a Redis Cluster.
//!
//! Keys and channels begin with `bf`, which stands for version 3 of the wire format. Programs of
//! different versions cannot read each other's bytes and must not share keys, so a new version
//! needs a new prefix.

use crate::{GatewayId, Priority, QueueName};

/// The consumer group of every stream of jobs.
pub(super) const GROUP: &str = "workers";

/// The consumer group of the census, which never reads entries.
pub(super) const CENSUS: &str = "census";

/// The only field of a queue's entry: the bytes of the job.
pub(super) const JOB: &str = "j";

/// Hash of the announcements of all models: worker to JSON. Programs of earlier versions know no
/// other.
pub(super) const WORKERS: &str = "bf:{fleet}:workers";

/// Counter that changes when a worker comes or goes.
pub(super) const CHANGES: &str = "bf:{fleet}:changes";

/// The beats of all workers as one gateway has read them, as JSON.
pub(super) const SUMMARY: &str = "bf:{fleet}:summary";

/// The turn to read all beats, which one gateway takes for a second.
pub(super) const SUMMARY_TURN: &str = "bf:{fleet}:summary:turn";

/// Set of the queues with a hash of announcements.
pub(super) const QUEUES: &str = "bf:{fleet}:queues";

/// Hash of promises: queue to JSON.
pub(super) const PROMISES: &str = "bf:{fleet}:promises";

/// Hash of traffic reports: gateway to JSON.
pub(super) const TRAFFIC: &str = "bf:{fleet}:traffic";

/// The epoch: a random text that stays the same while Redis keeps its data.
pub(super) const EPOCH: &str = "bf:{fleet}:epoch";

/// The streams of jobs of one model version, one per class, highest class first.
pub(super) fn queue(queue: &QueueName) -> [String; Priority::ALL.len()] {
    Priority::ALL.map(|priority| stream(queue, priority))
}

/// The stream of jobs of one class.
pub(super) fn stream(queue: &QueueName, priority: Priority) -> String {
    format!("bf:{{{queue}}}:q:{priority}")
}

/// The stream of dead letters: jobs that killed their workers.
pub(super) fn dead(queue: &QueueName) -> String {
    format!("bf:{{{queue}}}:dead")
}

/// Hash of the announcements of one model version: worker to JSON.
pub(super) fn announcements(queue: &QueueName) -> String {
    format!("bf:{{{queue}}}:workers")
}

/// Hash of the beats of the workers of one model version.
pub(super) fn beats(queue: &QueueName) -> String {
    format!("bf:{{{queue}}}:beats")
}

/// The turn to look for dead workers of a queue, which one worker takes for a second.
pub(super) fn turn(queue: &QueueName) -> String {
    format!("bf:{{{queue}}}:turn")
}

/// The result of the last look at the workers of a queue, as JSON.
pub(super) fn roll(queue: &QueueName) -> String {
    format!("bf:{{{queue}}}:roll")
}

/// The target of a queue, and the channel that announces a new target.
pub(super) fn target(queue: &QueueName) -> String {
    format!("bf:{{{queue}}}:target")
}

/// The key of a large reply.
pub(super) fn large_reply(queue: &QueueName, number: u128) -> String {
    format!("bf:{{{queue}}}:parcel:{number:032x}")
}

/// The reply channel of one gateway boot.
pub(super) fn replies(gateway: GatewayId) -> String {
    format!("bf:reply:{gateway}")
}

/// The liveness key of a gateway, which exists while the gateway lives.
pub(super) fn gateway(gateway: GatewayId) -> String {
    gateway_named(&gateway.to_string())
}

/// The liveness key of the gateway whose id has this text.
pub(super) fn gateway_named(gateway: &str) -> String {
    format!("bf:{{fleet}}:gateway:{gateway}")
}

/// The liveness key of a worker, which exists while the worker lives or keeps its jobs.
pub(super) fn live(worker: &str) -> String {
    format!("bf:{{fleet}}:live:{worker}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn names_change_with_the_version_of_the_wire_format() {
        let [_, stream, _] = queue(&QueueName::new("m", 1));
        assert_eq!((wire::VERSION, stream.as_str()), (3, "bf:{m:1}:q:default"));
    }
}
