//! Which gateways subscribe to their reply channel.

use std::{
    collections::{
        HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    time::Duration,
};

use redis::{Pipeline, RedisError, Value};
use tokio::time::Instant;

use super::keys;
use crate::GatewayId;

/// For how long a gateway is asked about after one of its jobs was claimed.
const ASKED: Duration = Duration::from_mins(1);

/// The gateways whose jobs were claimed of late: their reply channels, and when it was.
#[derive(Default)]
pub(super) struct Listeners(HashMap<GatewayId, (String, Instant)>);

impl Listeners {
    /// Notes that a job of this gateway was claimed.
    pub(super) fn note(&mut self, gateway: GatewayId) {
        let now = Instant::now();
        match self.0.entry(gateway) {
            Occupied(mut known) => known.get_mut().1 = now,
            Vacant(_) => {
                self.0.retain(|_, (_, noted)| now - *noted < ASKED);
                self.0.insert(gateway, (keys::replies(gateway), now));
            }
        }
    }

    /// Adds the question about all of them.
    pub(super) fn ask(&self, commands: &mut Pipeline) {
        let channels: Vec<&String> = self.0.values().map(|(channel, _)| channel).collect();
        commands.cmd("PUBSUB").arg("NUMSUB").arg(channels);
    }

    /// The unsubscribed gateways, by the answer; none if the answer is an error.
    pub(super) fn unsubscribed(&self, answer: Value) -> Vec<GatewayId> {
        let counts = answer.extract_error().and_then(|value| {
            redis::from_redis_value::<Vec<(String, u64)>>(value).map_err(RedisError::from)
        });
        let without = counts.unwrap_or_default().into_iter().filter(|(_, count)| *count == 0);
        let gateway = |(channel, _): (String, u64)| {
            let mut known = self.0.iter();
            known.find(|(_, (known, _))| *known == channel).map(|(gateway, _)| *gateway)
        };
        without.filter_map(gateway).collect()
    }
}
