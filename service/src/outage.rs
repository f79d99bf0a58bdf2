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
    /// How long Redis may be out of reach before /readyz answers 503. A gateway stays ready while no
    /// other gateway reaches Redis either
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

/// Task: marks the process as not ready while Redis is out of reach for longer than the settings
/// allow. Returns when a task that the broker needs has panicked.
pub async fn follow_outages(
    health: impl Fn() -> BrokerHealth,
    readiness: Readiness,
    settings: OutageSettings,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let BrokerHealth { outage, panicked } = health();
        let is_away = outage.is_some_and(|outage| outage.lasts >= settings.unready_after);
        readiness.set_obstacle(is_away.then_some("Redis is out of reach"));
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
        let outage = Arc::new(Mutex::new(None::<Duration>));
        let seen = outage.clone();
        let health = move || {
            let error = BrokerError::unreachable("gone");
            let outage = seen.lock().map(|lasts| Outage { lasts, error });
            BrokerHealth { outage, panicked: None }
        };
        let settings = OutageSettings { unready_after: Duration::from_secs(5) };
        tokio::spawn(follow_outages(health, readiness.clone(), settings));
        for (lasts, ready) in [
            (None, Ok(None)),
            (Some(Duration::from_secs(4)), Ok(None)),
            (Some(Duration::from_secs(5)), Err("Redis is out of reach")),
            (None, Ok(None)),
        ] {
            *outage.lock() = lasts;
            tokio::time::sleep(2 * LOOK).await;
            assert_eq!(readiness.get(), ready, "{lasts:?}");
        }
    }
}
