//! The brokers under a [`ShardedBroker`](super::ShardedBroker), and which of them can be used.

use std::{sync::Arc, time::Duration};

use crate::{Broker, BrokerError, BrokerHealth, Observer, QueueName};

/// How long an outage of a shard may last before workers find another home.
const DOWN: Duration = Duration::from_secs(2);

/// One broker.
pub(super) struct Shard {
    /// The same in all programs.
    pub(super) name: String,
    pub(super) broker: Arc<dyn Broker>,
    /// Knows whether the broker can be used.
    pub(super) observer: Arc<dyn Observer>,
}

/// All brokers.
pub(super) struct Shards {
    pub(super) all: Vec<Shard>,
    /// A queue uses one shard for each so many workers.
    pub(super) workers_per_shard: usize,
}

impl Shard {
    /// How long the outage of the broker has lasted; `None` if it can be used.
    pub(super) fn outage(&self) -> Option<Duration> {
        self.observer.health().outage.map(|outage| outage.lasts)
    }

    /// Whether workers can live here.
    pub(super) fn is_up(&self) -> bool {
        self.outage().is_none_or(|lasts| lasts < DOWN)
    }
}

impl Shards {
    /// The number of living workers of a queue, at all shards that are up.
    pub(super) async fn living_workers(&self, queue: &QueueName) -> usize {
        let mut workers = 0;
        for shard in self.all.iter().filter(|shard| shard.outage().is_none()) {
            workers += shard.broker.living_workers(queue).await.unwrap_or_default();
        }
        workers
    }

    /// Whether the brokers can be used: some of them are enough.
    pub(super) fn health(&self) -> BrokerHealth {
        let all: Vec<BrokerHealth> = self.all.iter().map(|shard| shard.observer.health()).collect();
        let panicked = all.iter().find_map(|health| health.panicked);
        let denials: Option<Vec<_>> = all.iter().map(|health| health.denied).collect();
        let denied = denials.and_then(|all| all.into_iter().min());
        let outages: Option<Vec<_>> = all.into_iter().map(|health| health.outage).collect();
        let outage = outages.and_then(|all| all.into_iter().min_by_key(|outage| outage.lasts));
        BrokerHealth { outage, denied, panicked }
    }
}

/// What the shards have answered, if at least one has.
pub(super) fn some<T>(answers: Vec<Result<T, BrokerError>>) -> Result<Vec<T>, BrokerError> {
    let (mut answered, mut failure) = (Vec::with_capacity(answers.len()), None);
    for answer in answers {
        match answer {
            Ok(answer) => answered.push(answer),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(failure) if answered.is_empty() => Err(failure),
        _ => Ok(answered),
    }
}
