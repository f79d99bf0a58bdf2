//! What the workers of each queue announce at each shard.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::spread::Spread;
use crate::{FleetSnapshot, QueueName};

/// The least weight of a living worker: one that has measured nothing yet also takes jobs.
const LEAST: f64 = 1.0;

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
}

struct QueueWeights {
    capacities: Vec<f64>,
    spread: Spread,
}

impl Weights {
    pub(super) fn new(shards: usize) -> Self {
        let state = State { deserted: vec![0; shards], ..State::default() };
        Self { shards, state: Mutex::new(state) }
    }

    /// Replaces the capacities by those of the living workers in the snapshot of each shard; `None`
    /// for a shard that cannot be read, whose capacities stay.
    pub(super) fn update(&self, snapshots: &[Option<FleetSnapshot>]) {
        let mut state = self.state.lock();
        let State { queues, deserted } = &mut *state;
        for (shard, snapshot) in snapshots.iter().enumerate() {
            let Some(snapshot) = snapshot else { continue };
            let mut found = HashMap::<&QueueName, f64>::new();
            for worker in snapshot.workers.iter().filter(|worker| worker.live) {
                let announcement = &worker.announcement;
                *found.entry(&announcement.model.queue).or_default() +=
                    announcement.capacity.max(LEAST);
            }
            for (queue, known) in queues.iter_mut() {
                let capacity = found.remove(queue).unwrap_or_default();
                let before = std::mem::replace(&mut known.capacities[shard], capacity);
                deserted[shard] += u64::from(before > 0.0 && capacity == 0.0);
            }
            for (queue, capacity) in found {
                let mut capacities = vec![0.0; self.shards];
                capacities[shard] = capacity;
                let known = QueueWeights { capacities, spread: Spread::default() };
                queues.insert(queue.clone(), known);
            }
        }
        queues.retain(|_, known| known.capacities.iter().any(|capacity| *capacity > 0.0));
    }

    /// The shard for the next job of a queue; `None` if no shard is usable.
    pub(super) fn next(&self, queue: &QueueName, usable: &[bool]) -> Option<usize> {
        let mut state = self.state.lock();
        let Some(known) = state.queues.get_mut(queue) else {
            return usable.iter().position(|usable| *usable);
        };
        let weights = usable.iter().zip(&known.capacities);
        let weights: Vec<_> = weights.map(|(usable, weight)| usable.then_some(*weight)).collect();
        known.spread.next(&weights)
    }

    /// Whether workers of this queue live at other usable shards, and none at this one.
    pub(super) fn is_deserted(&self, queue: &QueueName, shard: usize, usable: &[bool]) -> bool {
        let state = self.state.lock();
        let Some(known) = state.queues.get(queue) else { return false };
        let lives = |other: usize| usable[other] && known.capacities[other] > 0.0;
        known.capacities[shard] == 0.0 && (0..self.shards).any(lives)
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
            (0..4).map(|_| weights.next(&queue(), &usable)).collect()
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
        let is_deserted = |shard| weights.is_deserted(&queue(), shard, &[true; 2]);
        weights.update(&[Some(snapshot(&[0.0])), Some(snapshot(&[0.0]))]);
        assert!(!is_deserted(0) && !is_deserted(1), "unmeasured workers live, too");
        weights.update(&[None, Some(snapshot(&[1.0]))]);
        assert_eq!(weights.deserted(), [0, 0], "a shard that cannot be read tells nothing");
        weights.update(&[Some(snapshot(&[])), None]);
        assert_eq!(weights.deserted(), [1, 0]);
        assert!(is_deserted(0) && !is_deserted(1));
        assert!(!weights.is_deserted(&queue(), 0, &[true, false]), "nothing is better");
        weights.update(&[None, Some(snapshot(&[]))]);
        assert!(!is_deserted(0), "no worker lives anywhere");
    }
}
