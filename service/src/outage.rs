//! How a process follows the state of Redis.

use std::time::Duration;

use batchfleet_broker::BrokerHealth;
use clap::Args;
use tokio::time::{MissedTickBehavior, interval};

use crate::{Readiness, settings::duration};

/// Interval between looks at the state of Redis.
const LOOK: Duration = Duration::from_millis(250);

/// When an outage of Redis makes a process not ready.
#[derive(Args, Clone, Copy, Debug)]
pub struct OutageSettings {
    /// How long Redis may be out of reach, or deny commands, before /readyz answers 503. A gateway
    /// stays ready while no other gateway can use Redis either
    #[arg(
        long,
        env = "BATCHFLEET_UNREADY_AFTER",
        default_value = "5s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub unready_after: Duration,
}

impl Default for OutageSettings {
    fn default() -> Self {
        Self { unready_after: Duration::from_secs(5) }
    }
}

/// Task: marks the process as not ready while Redis is out of reach, or denies commands, for longer
/// than the settings allow. Returns when a task that the broker needs has panicked.
pub async fn follow_outages(
    health: impl Fn() -> BrokerHealth,
    readiness: Readiness,
    settings: OutageSettings,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let BrokerHealth { outage, denied, panicked } = health();
        let is_long = |lasts: Duration| lasts >= settings.unready_after;
        let obstacle = if outage.is_some_and(|outage| is_long(outage.lasts)) {
            Some("Redis is out of reach")
        } else {
            denied.is_some_and(is_long).then_some("Redis denies commands that this process needs")
        };
        readiness.set_obstacle(obstacle);
        if panicked.is_some() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use batchfleet_broker::{BrokerError, Outage};
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn readiness_follows_redis_after_the_grace_period() {
        let readiness = Readiness::default();
        readiness.ready();
        let health = Arc::new(Mutex::new(BrokerHealth::default()));
        let seen = health.clone();
        let settings = OutageSettings { unready_after: Duration::from_secs(5) };
        tokio::spawn(follow_outages(move || seen.lock().clone(), readiness.clone(), settings));
        let away = |seconds| {
            let (lasts, error) = (Duration::from_secs(seconds), BrokerError::unreachable("gone"));
            BrokerHealth { outage: Some(Outage { lasts, error }), ..BrokerHealth::default() }
        };
        let denied = |seconds| BrokerHealth {
            denied: Some(Duration::from_secs(seconds)),
            ..BrokerHealth::default()
        };
        for (state, ready) in [
            (BrokerHealth::default(), Ok(None)),
            (away(4), Ok(None)),
            (away(5), Err("Redis is out of reach")),
            (denied(4), Ok(None)),
            (denied(5), Err("Redis denies commands that this process needs")),
            (BrokerHealth::default(), Ok(None)),
        ] {
            *health.lock() = state.clone();
            tokio::time::sleep(2 * LOOK).await;
            assert_eq!(readiness.get(), ready, "{state:?}");
        }
    }
}
