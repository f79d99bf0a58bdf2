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

use super::keys;
use crate::GatewayId;

/// How long a gateway's subscription is queried after the last claim of one of its jobs.
const ASKED: Duration = Duration::from_mins(1);

/// Gateways with recently claimed jobs: their reply channels, and the time of the last claim.
#[derive(Default)]
pub(super) struct Listeners(HashMap<GatewayId, (String, Instant)>);

impl Listeners {
    /// Records that a job of this gateway was claimed.
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

    /// Adds the query about all of these gateways.
    pub(super) fn ask(&self, commands: &mut Pipeline) {
        let channels: Vec<&String> = self.0.values().map(|(channel, _)| channel).collect();
        commands.cmd("PUBSUB").arg("NUMSUB").arg(channels);
    }

    /// The unsubscribed gateways according to the answer; none if the answer is an error.
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
