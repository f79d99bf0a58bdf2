//! What the workers of each queue announce at each shard.

use std::{collections::HashMap, time::Duration};

use batchfleet_policy::Spread;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{BrokerError, FleetSnapshot, QueueName};

/// The least weight of a living worker: one that has measured nothing yet also takes jobs.
const LEAST: f64 = 1.0;

/// How long the jobs that the last worker of a shard had claimed are left to it. A worker that moved
/// usually answers them within a batch; one that died never does, and no other takes them over there.
pub(super) const LEFT_TO_LAST: Duration = Duration::from_secs(6);

/// The capacity of each queue at each shard.
pub(super) struct Weights {
    shards: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queues: HashMap<QueueName, QueueWeights>,
    /// How often a queue has lost its last worker at each shard.
    deserted: Vec<u64>,
    /// Which shards have no memory left for jobs.
    full: Vec<bool>,
}

struct QueueWeights {
    /// The capacity at each shard; `Err` with the time since when no worker lives there.
    capacities: Vec<Result<f64, Instant>>,
    spread: Spread,
}

impl QueueWeights {
    fn capacity(&self, shard: usize) -> f64 {
        self.capacities[shard].unwrap_or_default()
    }

    /// Replaces the capacity at a shard. Returns whether the last worker there is gone.
    fn set(&mut self, shard: usize, capacity: Option<f64>) -> bool {
        let known = &mut self.capacities[shard];
        let is_left = known.is_ok() && capacity.is_none();
        match capacity {
            Some(capacity) => *known = Ok(capacity),
            None => *known = Err(known.err().unwrap_or_else(Instant::now)),
        }
        is_left
    }
}

impl Weights {
    pub(super) fn new(shards: usize) -> Self {
        let (deserted, full) = (vec![0; shards], vec![false; shards]);
        Self { shards, state: Mutex::new(State { deserted, full, ..State::default() }) }
    }

    /// Replaces the capacities by those of the living workers in the snapshot of each shard; `None`
    /// for a shard that cannot be read, whose capacities stay.
    pub(super) fn update(&self, snapshots: &[Option<FleetSnapshot>]) {
        let mut state = self.state.lock();
        let State { queues, deserted, .. } = &mut *state;
        for (shard, snapshot) in snapshots.iter().enumerate() {
            let Some(snapshot) = snapshot else { continue };
            let mut found = HashMap::<&QueueName, f64>::new();
            for worker in snapshot.workers.iter().filter(|worker| worker.live) {
                let announcement = &worker.announcement;
                *found.entry(&announcement.model.queue).or_default() +=
                    announcement.capacity.max(LEAST);
            }
            for (queue, known) in queues.iter_mut() {
                deserted[shard] += u64::from(known.set(shard, found.remove(queue)));
            }
            for (queue, capacity) in found {
                let mut capacities = vec![Err(Instant::now()); self.shards];
                capacities[shard] = Ok(capacity);
                let known = QueueWeights { capacities, spread: Spread::default() };
                queues.insert(queue.clone(), known);
            }
        }
        queues.retain(|_, known| known.capacities.iter().any(Result::is_ok));
    }

    /// Notes whether a shard has memory left for jobs.
    pub(super) fn set_full(&self, shard: usize, is_full: bool) {
        self.state.lock().full[shard] = is_full;
    }

    /// Whether none of these shards has memory left for jobs.
    pub(super) fn are_full(&self, shards: &[bool]) -> bool {
        let state = self.state.lock();
        let mut of = shards.iter().zip(&state.full).filter(|(is_meant, _)| **is_meant).peekable();
        of.peek().is_some() && of.all(|(_, is_full)| *is_full)
    }

    /// The shard for the next job of a queue.
    ///
    /// # Errors
    ///
    /// No shard is usable, or those at which workers of the queue live are full.
    pub(super) fn next(&self, queue: &QueueName, usable: &[bool]) -> Result<usize, BrokerError> {
        let mut state = self.state.lock();
        let State { queues, full, .. } = &mut *state;
        let none = || BrokerError::unreachable("no Redis can be reached");
        let takes = |shard: usize| usable[shard] && !full[shard];
        let Some(known) = queues.get_mut(queue) else {
            let first = (0..self.shards).find(|shard| takes(*shard));
            return first
                .ok_or_else(|| if usable.contains(&true) { BrokerError::Full } else { none() });
        };
        let lives = |shard: usize| usable[shard] && known.capacities[shard].is_ok();
        if (0..self.shards).any(lives)
            && !(0..self.shards).any(|shard| lives(shard) && takes(shard))
        {
            return Err(BrokerError::Full);
        }
        let weights: Vec<_> =
            (0..self.shards).map(|shard| takes(shard).then(|| known.capacity(shard))).collect();
        known.spread.next(&weights).ok_or_else(none)
    }

    /// For how long no worker of this queue has lived at this shard while some live at other usable
    /// ones; `None` if this is not so.
    pub(super) fn deserted_for(
        &self,
        queue: &QueueName,
        shard: usize,
        usable: &[bool],
    ) -> Option<Duration> {
        let state = self.state.lock();
        let known = state.queues.get(queue)?;
        let lives = |other: usize| usable[other] && known.capacities[other].is_ok();
        let since = known.capacities[shard].err()?;
        (0..self.shards).any(lives).then(|| since.elapsed())
    }

    /// How often a queue has lost its last worker at each shard.
    pub(super) fn deserted(&self) -> Vec<u64> {
        self.state.lock().deserted.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Announcement, ModelSpec, ObservedWorker, WorkerId};

    fn snapshot(capacities: &[f64]) -> FleetSnapshot {
        let worker = |(number, capacity): (usize, &f64)| {
            let model = ModelSpec {
                queue: queue(),
                platform: String::new(),
                backend: String::new(),
                max_batch: None,
                inputs: Vec::new(),
                outputs: Vec::new(),
            };
            let announcement = Announcement::new(WorkerId(number as u128), model);
            ObservedWorker::live(Announcement { capacity: *capacity, ..announcement })
        };
        let workers = capacities.iter().enumerate().map(worker).collect();
        FleetSnapshot { workers, promises: Vec::new() }
    }

    fn queue() -> QueueName {
        QueueName::new("m", 1)
    }

    #[test]
    fn jobs_go_where_workers_live_and_the_shard_can_be_used() {
        let weights = Weights::new(3);
        let turns = |usable: [bool; 3]| -> Vec<_> {
            (0..4).map(|_| weights.next(&queue(), &usable).ok()).collect()
        };
        assert_eq!(turns([false, true, true]), [Some(1); 4], "no worker lives yet");
        weights.update(&[&[100.0][..], &[], &[50.0, 50.0]].map(|all| Some(snapshot(all))));
        assert_eq!(turns([true; 3]), [Some(0), Some(2), Some(0), Some(2)]);
        assert_eq!(turns([false, true, true]), [Some(2); 4]);
        assert_eq!(turns([false, true, false]), [Some(1); 4], "workers will come");
        assert_eq!(turns([false; 3]), [None; 4]);
    }

    #[test]
    fn a_shard_is_deserted_once_its_last_worker_is_gone_and_others_live_elsewhere() {
        let weights = Weights::new(2);
        let is_deserted = |shard| weights.deserted_for(&queue(), shard, &[true; 2]).is_some();
        weights.update(&[Some(snapshot(&[0.0])), Some(snapshot(&[0.0]))]);
        assert!(!is_deserted(0) && !is_deserted(1), "unmeasured workers live, too");
        weights.update(&[None, Some(snapshot(&[1.0]))]);
        assert_eq!(weights.deserted(), [0, 0], "a shard that cannot be read tells nothing");
        weights.update(&[Some(snapshot(&[])), None]);
        assert_eq!(weights.deserted(), [1, 0]);
        assert!(is_deserted(0) && !is_deserted(1));
        let usable = [true, false];
        assert_eq!(weights.deserted_for(&queue(), 0, &usable), None, "nothing is better");
        weights.update(&[None, Some(snapshot(&[]))]);
        assert!(!is_deserted(0), "no worker lives anywhere");
    }

    #[test]
    fn a_full_shard_gets_no_jobs_and_jobs_are_refused_where_only_full_ones_have_workers() {
        let weights = Weights::new(3);
        let next =
            |usable: [bool; 3]| weights.next(&queue(), &usable).map_err(|error| error.code());
        weights.set_full(0, true);
        assert_eq!(next([true; 3]), Ok(1), "no worker lives yet");
        assert_eq!(next([true, false, false]), Err("full"));
        weights.update(&[&[100.0][..], &[100.0], &[]].map(|all| Some(snapshot(all))));
        assert_eq!([(); 3].map(|()| next([true; 3])), [Ok(1); 3]);
        assert!(!weights.are_full(&[true; 3]) && weights.are_full(&[true, false, false]));
        weights.set_full(1, true);
        assert_eq!(next([true; 3]), Err("full"), "no worker would run it at the third");
        assert_eq!(next([false; 3]), Err("unreachable"));
        weights.set_full(0, false);
        assert_eq!(next([true; 3]), Ok(0));
    }
}
