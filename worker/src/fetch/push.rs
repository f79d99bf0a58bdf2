//! Pushes large outputs to the gateways that wait for them, before the replies are sent.

use std::{collections::HashMap, net::SocketAddr};

use batchfleet_broker::offer::MOST_ITEMS;
use futures_util::future::join_all;
use tracing::debug;

use super::{connection::Fault, ports::Ports};
use crate::{metrics::ModelMetrics, settle::JobReply};

/// The least bytes of outputs that are pushed.
const PUSHED_FROM: usize = 64 << 10;

/// Pushes the outputs of one pipeline. Clones share the connections.
#[derive(Clone)]
pub(crate) struct Pusher {
    metrics: ModelMetrics,
    ports: Ports,
}

impl Pusher {
    /// Starts without connections.
    pub(crate) fn new(metrics: ModelMetrics) -> Self {
        Self { metrics, ports: Ports::default() }
    }

    /// Pushes the large outputs of replies to gateways that take them. Replies whose outputs were not
    /// pushed stay as they are.
    pub(crate) async fn push(&self, replies: &mut [JobReply]) {
        let mut large = HashMap::<SocketAddr, Vec<&mut JobReply>>::new();
        for reply in replies {
            if let Some(offer) = reply.offer()
                && reply.output_bytes() >= PUSHED_FROM
            {
                large.entry(offer.address).or_default().push(reply);
            }
        }
        join_all(large.into_iter().map(|(gateway, replies)| self.push_to(gateway, replies))).await;
    }

    async fn push_to(&self, gateway: SocketAddr, mut replies: Vec<&mut JobReply>) {
        for replies in replies.chunks_mut(MOST_ITEMS) {
            if let Err(fault) = self.request(gateway, replies).await {
                debug!(%gateway, %fault, jobs = replies.len(), "failed to push outputs");
                self.metrics.push_failures.inc_by(replies.len() as u64);
            }
        }
    }

    async fn request(
        &self,
        gateway: SocketAddr,
        replies: &mut [&mut JobReply],
    ) -> Result<(), Fault> {
        let (mut connection, is_kept) = self.ports.connect(gateway).await?;
        let mut pushed = connection.push(replies, &self.metrics).await;
        if is_kept && pushed.as_ref().is_err_and(Fault::is_stale) {
            connection = self.ports.open(gateway).await?;
            pushed = connection.push(replies, &self.metrics).await;
        }
        self.ports.used(gateway, connection, pushed.as_ref().err());
        pushed
    }
}
