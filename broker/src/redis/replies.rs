//! The gateway's role that receives replies.

use std::{error::Error, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use redis::{PushInfo, PushKind};

use super::{
    connections::Connections,
    heartbeat::Heartbeat,
    large_reply::{LargeReplies, LargeReply},
    locator::Locator,
    values::into_bytes,
    watched::WatchedConnection,
};
use crate::{BrokerError, GatewayId, Inbound, Replies, ShardId, wire};

/// The replies to one gateway boot.
pub(super) struct RedisReplies {
    locator: Arc<Locator>,
    channel: String,
    /// `None` while the subscription is broken.
    subscription: Option<WatchedConnection>,
    large: LargeReplies,
    heartbeat: Arc<Heartbeat>,
}

impl RedisReplies {
    /// Subscribes, then starts the heartbeat, in a single attempt. While Redis is out of reach, both are
    /// left for later.
    pub(super) async fn open(
        connections: &Arc<Connections>,
        gateway: GatewayId,
    ) -> Result<Self, BrokerError> {
        let (locator, channel) =
            (Arc::clone(&connections.locator), connections.keys.replies(gateway));
        let subscription = match WatchedConnection::open(&locator, Some(&channel)).await {
            Err(BrokerError::Unreachable(_)) => None,
            subscribed => Some(subscribed?),
        };
        let large = LargeReplies::new(connections.pool.clone());
        // Starts after the subscription, so that every later loss is detected.
        let heartbeat = Arc::new(Heartbeat::start(Arc::clone(connections), gateway).await?);
        Ok(Self { locator, channel, subscription, large, heartbeat })
    }

    /// The heartbeat, which detects when Redis loses replies.
    pub(super) fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }
}

#[async_trait]
impl Replies for RedisReplies {
    async fn receive(&mut self) -> Inbound {
        let Self { subscription, large, .. } = self;
        loop {
            let Some(watched) = subscription.as_mut() else {
                let again =
                    WatchedConnection::reopen(&self.locator, Some(&self.channel), |_| {}).await;
                *subscription = Some(again);
                tracing::info!("subscribed to replies again");
                // Reports a single interruption, even if Redis also lost its data.
                self.heartbeat.catch_up().await;
                return Inbound::Interrupted(ShardId::default());
            };
            let received = tokio::select! {
                pushed = watched.next() => match pushed.map(message) {
                    Ok(None) => continue,
                    Ok(Some(message)) => match LargeReply::from_note(&message) {
                        None => Ok(message),
                        Some(reply) => {
                            large.fetch(reply);
                            continue;
                        }
                    },
                    Err(why) => {
                        tracing::warn!(%why, "subscription to replies lost");
                        *subscription = None;
                        continue;
                    }
                },
                fetched = large.next() => fetched,
                () = self.heartbeat.changed() => return Inbound::Interrupted(ShardId::default()),
            };
            return received.map_or_else(|error| lost(&error), decode);
        }
    }
}

/// The bytes of a message; `None` for other pushes, such as the confirmation of a subscription.
fn message(push: PushInfo) -> Option<Bytes> {
    if !matches!(push.kind, PushKind::Message | PushKind::SMessage) {
        return None;
    }
    push.data.into_iter().nth(1).and_then(into_bytes)
}

fn decode(replies: Bytes) -> Inbound {
    wire::decode_replies(replies).map_or_else(|error| lost(&error), Inbound::Replies)
}

/// Treats unreadable replies as lost, like replies during a broken subscription.
fn lost(error: &dyn Error) -> Inbound {
    tracing::error!(%error, "replies lost");
    Inbound::Interrupted(ShardId::default())
}
