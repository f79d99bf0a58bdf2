//! One queue in memory.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{
    Backlog, Delivery, EntryId, Job, Priority, ShardId, WorkerId, roles::RECLAIM_AFTER,
    share::share,
};

/// A queue. The jobs of each class are sorted by id, which is the order of submission, so that a
/// job handed back returns to its old position.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// Notified when jobs are waiting.
    pub(super) filled: Notify,
}

#[derive(Default)]
struct QueueState {
    waiting: [BTreeMap<EntryId, WaitingJob>; Priority::ALL.len()],
    held: HashMap<EntryId, HeldJob>,
    added: u64,
    /// The number of claims so far.
    turn: usize,
}

struct WaitingJob {
    job: Job,
    since: Instant,
}

/// A claimed job, kept in case its worker dies.
struct HeldJob {
    waiting: WaitingJob,
    worker: WorkerId,
    claimed_at: Instant,
    /// When the lease began: at the claim, or at its last renewal.
    leased_at: Instant,
    deliveries: u32,
}

impl HeldJob {
    /// Whether another worker may reclaim the job.
    fn is_overdue(&self, now: Instant, lease: Duration, dead: impl Fn(WorkerId) -> bool) -> bool {
        let age = now - self.leased_at;
        age >= lease || (age >= RECLAIM_AFTER && dead(self.worker))
    }

    fn delivery(&self, entry: EntryId) -> Delivery {
        let WaitingJob { job, since } = &self.waiting;
        Delivery {
            entry,
            job: job.clone(),
            deliveries: self.deliveries,
            waited: self.claimed_at - *since,
            claimed_at: self.claimed_at,
            deadline: *since + job.ttl,
            awaited: true,
        }
    }
}

impl Queue {
    /// Adds a job, unless `max_waiting` jobs are waiting. Ids count milliseconds since `started`.
    pub(super) fn add(&self, job: Job, max_waiting: usize, started: Instant) -> Option<EntryId> {
        let since = Instant::now();
        let mut state = self.state.lock();
        if state.waiting.iter().map(BTreeMap::len).sum::<usize>() >= max_waiting {
            return None;
        }
        let priority = job.priority;
        let milliseconds = u64::try_from((since - started).as_millis()).unwrap_or(u64::MAX);
        let entry =
            EntryId { priority, milliseconds, sequence: state.added, shard: ShardId::default() };
        state.added += 1;
        state.waiting[priority as usize].insert(entry, WaitingJob { job, since });
        drop(state);
        self.filled.notify_one();
        Some(entry)
    }

    /// Removes a job if no worker has claimed it. Returns whether the job was removed.
    pub(super) fn withdraw(&self, entry: EntryId) -> bool {
        self.state.lock().waiting[entry.priority as usize].remove(&entry).is_some()
    }

    /// Returns for each entry whether its job is waiting or held.
    pub(super) fn outstanding(&self, entries: &[EntryId]) -> Vec<bool> {
        let state = self.state.lock();
        let is_outstanding = |entry: &EntryId| {
            state.held.contains_key(entry)
                || state.waiting[entry.priority as usize].contains_key(entry)
        };
        entries.iter().map(is_outstanding).collect()
    }

    /// Claims waiting jobs, without blocking.
    pub(super) fn claim(&self, worker: WorkerId, limit: usize) -> Vec<Delivery> {
        let claimed_at = Instant::now();
        let state = &mut *self.state.lock();
        let shares = share(limit, state.waiting.each_ref().map(BTreeMap::len), state.turn);
        state.turn = state.turn.wrapping_add(1);
        let mut deliveries = Vec::with_capacity(shares.iter().sum());
        for (waiting, share) in state.waiting.iter_mut().zip(shares) {
            for _ in 0..share {
                let Some((entry, waiting)) = waiting.pop_first() else { break };
                let leased_at = claimed_at;
                let held = HeldJob { waiting, worker, claimed_at, leased_at, deliveries: 1 };
                deliveries.push(held.delivery(entry));
                state.held.insert(entry, held);
            }
        }
        if state.waiting.iter().any(|waiting| !waiting.is_empty()) {
            // One notification may stand for many jobs: notify the next worker too.
            self.filled.notify_one();
        }
        deliveries
    }

    /// Claims jobs held by `dead` workers, or by any worker for longer than `lease`, oldest first.
    pub(super) fn reclaim(
        &self,
        worker: WorkerId,
        limit: usize,
        lease: Duration,
        dead: impl Fn(WorkerId) -> bool,
    ) -> Vec<Delivery> {
        let claimed_at = Instant::now();
        let mut state = self.state.lock();
        let held = state.held.iter_mut();
        let mut overdue: Vec<_> =
            held.filter(|(_, held)| held.is_overdue(claimed_at, lease, &dead)).collect();
        overdue.sort_by_key(|(entry, _)| (entry.milliseconds, entry.sequence));
        overdue.truncate(limit);
        let reclaim = |(&entry, held): (&EntryId, &mut HeldJob)| {
            held.worker = worker;
            held.claimed_at = claimed_at;
            held.leased_at = claimed_at;
            held.deliveries += 1;
            held.delivery(entry)
        };
        overdue.into_iter().map(reclaim).collect()
    }

    /// Whether a [`reclaim`](Self::reclaim) would find a job.
    pub(super) fn has_overdue(&self, lease: Duration, dead: impl Fn(WorkerId) -> bool) -> bool {
        let now = Instant::now();
        self.state.lock().held.values().any(|held| held.is_overdue(now, lease, &dead))
    }

    /// Starts the leases of jobs that `worker` holds anew.
    pub(super) fn renew_leases(&self, worker: WorkerId, entries: &[EntryId]) {
        let (now, mut state) = (Instant::now(), self.state.lock());
        for entry in entries {
            if let Some(held) = state.held.get_mut(entry).filter(|held| held.worker == worker) {
                held.leased_at = now;
            }
        }
    }

    /// Removes settled jobs.
    pub(super) fn remove(&self, entries: impl Iterator<Item = EntryId>) {
        let mut state = self.state.lock();
        for entry in entries {
            state.held.remove(&entry);
        }
    }

    /// Puts each job that is still held into its old position in the queue.
    pub(super) fn hand_back(&self, deliveries: Vec<Delivery>) {
        let mut state = self.state.lock();
        for Delivery { entry, .. } in deliveries {
            if let Some(HeldJob { waiting, .. }) = state.held.remove(&entry) {
                state.waiting[entry.priority as usize].insert(entry, waiting);
            }
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Counts the jobs that each worker holds.
    pub(super) fn held(&self) -> HashMap<String, u64> {
        let mut held = HashMap::new();
        for job in self.state.lock().held.values() {
            *held.entry(job.worker.to_string()).or_default() += 1;
        }
        held
    }

    pub(super) fn backlog(&self) -> Backlog {
        let state = self.state.lock();
        let oldest = state.waiting.iter().filter_map(BTreeMap::first_key_value);
        Backlog {
            waiting: state.waiting.each_ref().map(|waiting| waiting.len() as u64),
            in_flight: state.held.len() as u64,
            oldest_age: oldest
                .map(|(_, waiting)| waiting.since.elapsed())
                .max()
                .unwrap_or_default(),
            added: state.added,
        }
    }
}
