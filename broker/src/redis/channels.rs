//! The commands that publish messages and subscribe to them, which differ in a cluster.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// How messages reach subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channels {
    /// Through the only server.
    OneServer,
    /// Through the node of a cluster that has the partition, by sharded channels.
    Sharded,
    /// Through all nodes of a cluster that knows no sharded channels. Each node then counts only its
    /// own subscribers.
    AllNodes,
}

impl Channels {
    /// The command that publishes a message.
    pub(super) const fn publish(self) -> &'static str {
        match self {
            Self::OneServer | Self::AllNodes => "PUBLISH",
            Self::Sharded => "SPUBLISH",
        }
    }

    /// The command that subscribes to a channel.
    pub(super) const fn subscribe(self) -> &'static str {
        match self {
            Self::OneServer | Self::AllNodes => "SUBSCRIBE",
            Self::Sharded => "SSUBSCRIBE",
        }
    }

    /// The subcommand of `PUBSUB` that counts subscribers.
    pub(super) const fn count(self) -> &'static str {
        match self {
            Self::OneServer | Self::AllNodes => "NUMSUB",
            Self::Sharded => "SHARDNUMSUB",
        }
    }

    /// Whether Redis counts all subscribers of a channel.
    pub(super) const fn counts_all(self) -> bool {
        !matches!(self, Self::AllNodes)
    }
}

/// How messages reach subscribers, as far as is known.
pub(super) struct KnownChannels(AtomicU8);

impl KnownChannels {
    /// Clusters count as clusters with sharded channels until one refuses them.
    pub(super) const fn new(is_cluster: bool) -> Self {
        let channels = if is_cluster { Channels::Sharded } else { Channels::OneServer };
        Self(AtomicU8::new(channels as u8))
    }

    pub(super) fn get(&self) -> Channels {
        const ONE_SERVER: u8 = Channels::OneServer as u8;
        const SHARDED: u8 = Channels::Sharded as u8;
        match self.0.load(Relaxed) {
            ONE_SERVER => Channels::OneServer,
            SHARDED => Channels::Sharded,
            _ => Channels::AllNodes,
        }
    }

    pub(super) fn set(&self, channels: Channels) {
        self.0.store(channels as u8, Relaxed);
    }
}
