//! Which gateways are subscribed to their reply channels.

use std::{
    collections::{
        HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    time::Duration,
};

use redis::{Pipeline, RedisError, Value};
use tokio::time::Instant;

use super::{channels::Channels, keys::Keys};
use crate::GatewayId;

/// How long a gateway's subscription is queried after the last claim of one of its jobs.
const ASKED: Duration = Duration::from_mins(1);

/// Gateways with recently claimed jobs: their reply channels, and the time of the last claim.
pub(super) struct Listeners {
    keys: Keys,
    noted: HashMap<GatewayId, (String, Instant)>,
}

impl Listeners {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, noted: HashMap::new() }
    }

    /// Records that a job of this gateway was claimed.
    pub(super) fn note(&mut self, gateway: GatewayId) {
        let now = Instant::now();
        match self.noted.entry(gateway) {
            Occupied(mut known) => known.get_mut().1 = now,
            Vacant(_) => {
                self.noted.retain(|_, (_, noted)| now - *noted < ASKED);
                self.noted.insert(gateway, (self.keys.replies(gateway), now));
            }
        }
    }

    /// Adds the query about all of these gateways; about none if Redis does not know all subscribers.
    pub(super) fn ask(&self, commands: &mut Pipeline, channels: Channels) {
        let count = commands.cmd("PUBSUB").arg(channels.count());
        if channels.counts_all() {
            count.arg(self.noted.values().map(|(channel, _)| channel).collect::<Vec<_>>());
        }
    }

    /// The unsubscribed gateways according to the answer; none if the answer is an error.
    pub(super) fn unsubscribed(&self, answer: Value) -> Vec<GatewayId> {
        let counts = answer.extract_error().and_then(|value| {
            redis::from_redis_value::<Vec<(String, u64)>>(value).map_err(RedisError::from)
        });
        let without = counts.unwrap_or_default().into_iter().filter(|(_, count)| *count == 0);
        let gateway = |(channel, _): (String, u64)| {
            let mut known = self.noted.iter();
            known.find(|(_, (known, _))| *known == channel).map(|(gateway, _)| *gateway)
        };
        without.filter_map(gateway).collect()
    }
}
