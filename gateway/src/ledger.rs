//! Who is owed an answer, and what to do when one may be lost: a state machine without clock or
//! I/O. The gateway is the durable owner of a request; the queue may lose anything.
//!
//! A request is *here* (to be sent when the queue can be reached), *leaving* (being sent), or
//! *queued*. One that has been queued in silence, or from before the queue was interrupted, is a
//! suspect: if it stands in the queue no more and no answer has come, it is here again, to be sent
//! once more under the same id. Whichever answer comes first is delivered, the others are dropped.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use batchfleet_broker::{EntryId, Job, Reply, RequestId};
use tokio::time::Instant;

/// How often one request is sent at most.
pub(crate) const MOST_ATTEMPTS: u8 = 4;
/// Silence after which a queued request becomes a suspect without any other sign.
pub(crate) const SILENCE: Duration = Duration::from_secs(6);
/// What an accepted request adds to the budget for sending again, and what a second adds. A fleet
/// that loses more than that has a fault that sending again makes worse.
const EARNED_PER_REQUEST: f64 = 0.2;
const EARNED_PER_SECOND: f64 = 10.0;

/// Every request this gateway owes an answer. `C` is whatever reaches its caller.
#[derive(Debug)]
pub(crate) struct Ledger<C> {
    owed: HashMap<RequestId, Owed<C>>,
    /// Those that leave with others, oldest first; who was given up meanwhile is still in line.
    line: VecDeque<RequestId>,
    budget: Budget,
}

#[derive(Debug)]
struct Owed<C> {
    caller: C,
    job: Arc<Job>,
    deadline: Instant,
    whereabouts: Whereabouts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whereabouts {
    /// To be sent.
    Here,
    /// Being sent.
    Leaving,
    /// In the queue when last seen.
    Queued { entry: EntryId, seen: Instant },
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolution<C> {
    /// It belongs to this caller.
    Deliver(C),
    /// Nobody waits for it: answered before, given up, or from a former life.
    Unclaimed,
    /// It was computed from another input than this caller's.
    Misrouted(C),
}

impl<C> Ledger<C> {
    /// An empty ledger that never holds more than `seats` requests.
    pub(crate) fn new(seats: usize, now: Instant) -> Self {
        Self { owed: HashMap::new(), line: VecDeque::new(), budget: Budget::new(seats, now) }
    }

    /// Takes on a request, which is leaving.
    pub(crate) fn accept(&mut self, job: Arc<Job>, deadline: Instant, caller: C) {
        self.budget.earn(EARNED_PER_REQUEST);
        let whereabouts = Whereabouts::Leaving;
        self.owed.insert(job.id, Owed { caller, job, deadline, whereabouts });
    }

    /// Lets a request that is leaving wait for others to leave with.
    pub(crate) fn line_up(&mut self, id: RequestId) {
        self.line.push_back(id);
    }

    /// The next in line, as many as have at most `size` bytes together, or one.
    pub(crate) fn next_in_line(&mut self, size: usize) -> Vec<(Arc<Job>, &C)> {
        let (mut next, mut together) = (Vec::new(), 0);
        while let Some(id) = self.line.front() {
            if let Some(owed) = self.owed.get(id) {
                together += owed.job.size();
                if together > size && !next.is_empty() {
                    break;
                }
                next.push((owed.job.clone(), &owed.caller));
            }
            self.line.pop_front();
        }
        next
    }

    /// A request that was leaving has reached the queue. `false`: nobody waits for it any more, so
    /// it should be withdrawn.
    pub(crate) fn sent(&mut self, id: RequestId, entry: EntryId, now: Instant) -> bool {
        let Some(owed) = self.owed.get_mut(&id) else { return false };
        // Unless it has come back meanwhile.
        if owed.whereabouts == Whereabouts::Leaving {
            owed.whereabouts = Whereabouts::Queued { entry, seen: now };
        }
        true
    }

    /// A request that was leaving may not have reached the queue.
    pub(crate) fn unsent(&mut self, id: RequestId) {
        if let Some(owed) = self.owed.get_mut(&id) {
            owed.whereabouts = Whereabouts::Here;
        }
    }

    /// Ends a request without an answer; returns its place in the queue, if it has one.
    pub(crate) fn forget(&mut self, id: RequestId) -> Option<EntryId> {
        match self.owed.remove(&id)?.whereabouts {
            Whereabouts::Queued { entry, .. } => Some(entry),
            Whereabouts::Here | Whereabouts::Leaving => None,
        }
    }

    /// Ends a request that its queue refused; returns whoever is to be told.
    pub(crate) fn release(&mut self, id: RequestId) -> Option<C> {
        Some(self.owed.remove(&id)?.caller)
    }

    /// Ends a request by an answer to it.
    pub(crate) fn resolve(&mut self, reply: &Reply) -> Resolution<C> {
        match self.owed.entry(reply.id) {
            Entry::Vacant(_) => Resolution::Unclaimed,
            Entry::Occupied(owed) => {
                let Owed { caller, job, .. } = owed.remove();
                if job.digest == reply.digest {
                    Resolution::Deliver(caller)
                } else {
                    Resolution::Misrouted(caller)
                }
            }
        }
    }

    /// Whether nobody is owed anything.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// The requests that are here and can still be answered in time. They are leaving now.
    pub(crate) fn take_unsent(&mut self, now: Instant) -> Vec<(Arc<Job>, &C)> {
        let mut leaving = Vec::new();
        for owed in self.owed.values_mut() {
            if owed.whereabouts == Whereabouts::Here && owed.deadline > now {
                owed.whereabouts = Whereabouts::Leaving;
                let ttl = owed.deadline - now;
                owed.job = Arc::new(Job { ttl, ..(*owed.job).clone() });
                leaving.push((owed.job.clone(), &owed.caller));
            }
        }
        leaving
    }

    /// The queued requests last seen before `before`, with their places.
    pub(crate) fn suspects(&self, before: Instant) -> Vec<(RequestId, EntryId, &C)> {
        let suspect = |(&id, owed): (_, &'_ Owed<C>)| match owed.whereabouts {
            Whereabouts::Queued { entry, seen } if seen < before => Some((id, entry)),
            _ => None,
        };
        let with_caller = |(id, owed)| suspect((id, owed)).map(|(id, at)| (id, at, &owed.caller));
        self.owed.iter().filter_map(with_caller).collect()
    }

    /// A suspect stands in the queue, so its answer is still to come.
    pub(crate) fn stands(&mut self, id: RequestId, entry: EntryId, now: Instant) {
        if let Some(owed) = self.owed.get_mut(&id).filter(|owed| owed.is_queued_at(entry)) {
            owed.whereabouts = Whereabouts::Queued { entry, seen: now };
        }
    }

    /// A suspect stands in the queue no more, and time enough for its answer to arrive has passed.
    /// Returns whether it will be sent again; one that may not be ends at its deadline.
    pub(crate) fn lost(&mut self, id: RequestId, entry: EntryId, now: Instant) -> bool {
        let Self { owed, budget, .. } = self;
        let Some(owed) = owed.get_mut(&id).filter(|owed| owed.is_queued_at(entry)) else {
            return false;
        };
        let again = owed.come_back(budget, now);
        if !again {
            // Looked at again after another silence: the budget may have recovered.
            owed.whereabouts = Whereabouts::Queued { entry, seen: now };
        }
        again
    }

    /// A worker has dropped this attempt, because nobody listened for its answer; it is to be sent
    /// again. One that may not be is found lost after a silence.
    pub(crate) fn unawaited(&mut self, id: RequestId, attempt: u8, now: Instant) {
        let Self { owed, budget, .. } = self;
        let is_current = |owed: &&mut Owed<C>| {
            owed.job.attempt == attempt && owed.whereabouts != Whereabouts::Here
        };
        if let Some(owed) = owed.get_mut(&id).filter(is_current) {
            owed.come_back(budget, now);
        }
    }
}

impl<C> Owed<C> {
    /// Has it sent again, unless it is too late, or was sent too often. Returns whether it will be.
    fn come_back(&mut self, budget: &mut Budget, now: Instant) -> bool {
        let attempt = self.job.attempt + 1;
        if attempt == MOST_ATTEMPTS || self.deadline <= now || !budget.spend(now) {
            return false;
        }
        // Should a worker have removed it because it cannot read of traces, it shall not do so again.
        self.job = Arc::new(Job { attempt, trace: None, ..(*self.job).clone() });
        self.whereabouts = Whereabouts::Here;
        true
    }

    fn is_queued_at(&self, place: EntryId) -> bool {
        matches!(self.whereabouts, Whereabouts::Queued { entry, .. } if entry == place)
    }
}

/// How many requests may be sent again: a bucket that accepted requests and time fill, large enough
/// to send everything once after the queue was emptied.
#[derive(Debug)]
struct Budget {
    tokens: f64,
    most: f64,
    filled: Instant,
}

impl Budget {
    #[expect(clippy::cast_precision_loss, reason = "a number of requests held in memory")]
    fn new(seats: usize, now: Instant) -> Self {
        let most = seats as f64;
        Self { tokens: most, most, filled: now }
    }

    fn earn(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.most);
    }

    fn spend(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled);
        self.filled = now;
        self.earn(EARNED_PER_SECOND * elapsed.as_secs_f64());
        let affordable = self.tokens >= 1.0;
        if affordable {
            self.tokens -= 1.0;
        }
        affordable
    }
}

#[cfg(test)]
mod tests;
