//! The names of all keys, channels and groups in Redis.
//!
//! A Redis Cluster decides by the first part in braces, the hash tag, which node has a key. In a
//! cluster all names of a partition begin with the tag of the partition, such as `bf:{10}:`, so that one node
//! has them all; otherwise they begin with `bf:`.
//!
//! Keys and channels begin with `bf`, which stands for version 3 of the wire format. Programs of
//! different versions cannot read each other's bytes and must not share keys, so a new version
//! needs a new prefix.

use std::fmt;

use super::slots::tag_of;
use crate::{GatewayId, Priority, QueueName};

/// The consumer group of every stream of jobs.
pub(super) const GROUP: &str = "workers";

/// The consumer group of the census, which never reads entries.
pub(super) const CENSUS: &str = "census";

/// The only field of a queue's entry: the bytes of the job.
pub(super) const JOB: &str = "j";

/// The names of all other keys, and of all channels, in one Redis or in one partition of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    /// The hash tag of the partition of a cluster; `None` if Redis is no cluster.
    tag: Option<u32>,
}

impl Keys {
    /// The names in a partition of a cluster; in a Redis that is no cluster for `None`.
    pub(super) fn new(partition: Option<u16>) -> Self {
        Self { tag: partition.map(tag_of) }
    }

    fn name(self, rest: fmt::Arguments<'_>) -> String {
        match self.tag {
            None => format!("bf:{rest}"),
            Some(tag) => format!("bf:{{{tag}}}:{rest}"),
        }
    }

    /// Hash of the announcements of all models: worker to JSON. Programs of earlier versions know no
    /// other.
    pub(super) fn workers(self) -> String {
        self.name(format_args!("{{fleet}}:workers"))
    }

    /// Counter that changes when a worker comes or goes.
    pub(super) fn changes(self) -> String {
        self.name(format_args!("{{fleet}}:changes"))
    }

    /// The beats of all workers as one gateway has read them, as JSON.
    pub(super) fn summary(self) -> String {
        self.name(format_args!("{{fleet}}:summary"))
    }

    /// The turn to read all beats, which one gateway takes for a second.
    pub(super) fn summary_turn(self) -> String {
        self.name(format_args!("{{fleet}}:summary:turn"))
    }

    /// Set of the queues with a hash of announcements.
    pub(super) fn queues(self) -> String {
        self.name(format_args!("{{fleet}}:queues"))
    }

    /// Hash of promises: queue to JSON.
    pub(super) fn promises(self) -> String {
        self.name(format_args!("{{fleet}}:promises"))
    }

    /// Hash of traffic reports: gateway to JSON.
    pub(super) fn traffic(self) -> String {
        self.name(format_args!("{{fleet}}:traffic"))
    }

    /// The epoch: a random text that stays the same while Redis keeps its data.
    pub(super) fn epoch(self) -> String {
        self.name(format_args!("{{fleet}}:epoch"))
    }

    /// The number of partitions of the cluster, which is the same for all programs of a fleet.
    pub(super) fn partitions(self) -> String {
        self.name(format_args!("{{fleet}}:partitions"))
    }

    /// A key that never exists.
    pub(super) fn absent(self) -> String {
        self.live("none")
    }

    /// The streams of jobs of one model version, one per class, highest class first.
    pub(super) fn queue(self, queue: &QueueName) -> [String; Priority::ALL.len()] {
        Priority::ALL.map(|priority| self.stream(queue, priority))
    }

    /// The stream of jobs of one class.
    pub(super) fn stream(self, queue: &QueueName, priority: Priority) -> String {
        self.name(format_args!("{{{queue}}}:q:{priority}"))
    }

    /// The stream of dead letters: jobs that killed their workers.
    pub(super) fn dead(self, queue: &QueueName) -> String {
        self.name(format_args!("{{{queue}}}:dead"))
    }

    /// Hash of the announcements of one model version: worker to JSON.
    pub(super) fn announcements(self, queue: &QueueName) -> String {
        self.name(format_args!("{{{queue}}}:workers"))
    }

    /// Hash of the beats of the workers of one model version.
    pub(super) fn beats(self, queue: &QueueName) -> String {
        self.name(format_args!("{{{queue}}}:beats"))
    }

    /// The turn to look for dead workers of a queue, which one worker takes for a second.
    pub(super) fn turn(self, queue: &QueueName) -> String {
        self.name(format_args!("{{{queue}}}:turn"))
    }

    /// The result of the last look at the workers of a queue, as JSON.
    pub(super) fn roll(self, queue: &QueueName) -> String {
        self.name(format_args!("{{{queue}}}:roll"))
    }

    /// The target of a queue, and the channel that announces a new target.
    pub(super) fn target(self, queue: &QueueName) -> String {
        self.name(format_args!("{{{queue}}}:target"))
    }

    /// The key of a large reply.
    pub(super) fn large_reply(self, queue: &QueueName, number: u128) -> String {
        self.name(format_args!("{{{queue}}}:parcel:{number:032x}"))
    }

    /// The reply channel of one gateway boot.
    pub(super) fn replies(self, gateway: GatewayId) -> String {
        self.name(format_args!("reply:{gateway}"))
    }

    /// The liveness key of a gateway, which exists while the gateway lives.
    pub(super) fn gateway(self, gateway: GatewayId) -> String {
        self.gateway_named(&gateway.to_string())
    }

    /// The liveness key of the gateway whose id has this text.
    pub(super) fn gateway_named(self, gateway: &str) -> String {
        self.name(format_args!("{{fleet}}:gateway:{gateway}"))
    }

    /// The liveness key of a worker, which exists while the worker lives or keeps its jobs.
    pub(super) fn live(self, worker: &str) -> String {
        self.name(format_args!("{{fleet}}:live:{worker}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn names_change_with_the_version_of_the_wire_format() {
        let [_, stream, _] = Keys::default().queue(&QueueName::new("m", 1));
        assert_eq!((wire::VERSION, stream.as_str()), (3, "bf:{m:1}:q:default"));
    }

    #[test]
    fn all_names_of_a_partition_begin_with_its_tag() {
        let (keys, queue) = (Keys::new(Some(1)), QueueName::new("m", 1));
        let own = [keys.dead(&queue), keys.turn(&queue), keys.large_reply(&queue, 1)];
        let shared = [keys.epoch(), keys.replies(GatewayId::random()), keys.live("w")];
        let names = keys.queue(&queue).into_iter().chain(own).chain(shared);
        assert!(names.into_iter().all(|name| name.starts_with("bf:{12}:")));
        assert_eq!(keys.target(&queue), "bf:{12}:{m:1}:target");
    }
}
