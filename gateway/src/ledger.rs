//! The ledger of requests that are owed an answer, and what to do when an answer may be lost: a
//! state machine without clock or I/O. The gateway is the durable owner of a request; the queue may
//! lose anything.
//!
//! A request is *unsent* (to be sent when the queue can be reached), *leaving* (being sent), or
//! *queued*. A queued request is presumed lost after a long silence, or when the queue was
//! interrupted since the request was last seen there. If its job is no longer in the queue and no
//! answer has come, the request is unsent again, and its job is sent once more under the same id.
//! The first answer is delivered, later ones are dropped.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use batchfleet_broker::{EntryId, Job, Reply, RequestId};
use tokio::time::Instant;

/// The most times that one request is sent.
pub(crate) const MOST_ATTEMPTS: u8 = 4;
/// How long a queued request may be without an answer before it is presumed lost.
pub(crate) const SILENCE: Duration = Duration::from_secs(6);
/// What each accepted request, and each second, adds to the budget for resubmissions. A fleet that
/// loses more than that has a fault that resubmissions make worse.
const EARNED_PER_REQUEST: f64 = 0.2;
const EARNED_PER_SECOND: f64 = 10.0;

/// Every request that this gateway owes an answer. `C` is the way to its caller.
#[derive(Debug)]
pub(crate) struct Ledger<C> {
    owed: HashMap<RequestId, Owed<C>>,
    /// Requests to be sent together with others, oldest first. May contain requests that have
    /// ended.
    line: VecDeque<RequestId>,
    budget: ResubmissionBudget,
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
    Unsent,
    /// Being sent.
    Leaving,
    /// In the queue at `seen`.
    Queued { entry: EntryId, seen: Instant },
}

/// What becomes of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolution<C> {
    /// The reply belongs to this caller.
    Deliver(C),
    /// No request waits for the reply: the request was answered or given up.
    Unclaimed,
    /// The reply was computed from another input than this caller's.
    Misrouted(C),
}

impl<C> Ledger<C> {
    /// An empty ledger that never holds more than `seats` requests.
    pub(crate) fn new(seats: usize, now: Instant) -> Self {
        Self {
            owed: HashMap::new(),
            line: VecDeque::new(),
            budget: ResubmissionBudget::new(seats, now),
        }
    }

    /// Adds a request, which is leaving.
    pub(crate) fn accept(&mut self, job: Arc<Job>, deadline: Instant, caller: C) {
        self.budget.earn(EARNED_PER_REQUEST);
        let whereabouts = Whereabouts::Leaving;
        self.owed.insert(job.id, Owed { caller, job, deadline, whereabouts });
    }

    /// Puts a leaving request in line, to be sent together with others.
    pub(crate) fn line_up(&mut self, id: RequestId) {
        self.line.push_back(id);
    }

    /// Takes the next requests from the line: at most `size` bytes of jobs, or one job.
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

    /// Notes that a leaving request has reached the queue. `false` if the request has ended, so
    /// that its job should be withdrawn.
    pub(crate) fn sent(&mut self, id: RequestId, entry: EntryId, now: Instant) -> bool {
        let Some(owed) = self.owed.get_mut(&id) else { return false };
        // A worker may have dropped the job already, so that the request is unsent again.
        if owed.whereabouts == Whereabouts::Leaving {
            owed.whereabouts = Whereabouts::Queued { entry, seen: now };
        }
        true
    }

    /// Notes that a leaving request may not have reached the queue.
    pub(crate) fn unsent(&mut self, id: RequestId) {
        if let Some(owed) = self.owed.get_mut(&id) {
            owed.whereabouts = Whereabouts::Unsent;
        }
    }

    /// Ends a request without an answer; returns its entry in the queue, if it has one.
    pub(crate) fn forget(&mut self, id: RequestId) -> Option<EntryId> {
        match self.owed.remove(&id)?.whereabouts {
            Whereabouts::Queued { entry, .. } => Some(entry),
            Whereabouts::Unsent | Whereabouts::Leaving => None,
        }
    }

    /// Ends a request that its queue refused; returns the caller.
    pub(crate) fn release(&mut self, id: RequestId) -> Option<C> {
        Some(self.owed.remove(&id)?.caller)
    }

    /// Ends a request with a reply.
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

    /// Whether no request is owed an answer.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Takes the unsent requests that can still be answered in time; they are leaving now.
    pub(crate) fn take_unsent(&mut self, now: Instant) -> Vec<(Arc<Job>, &C)> {
        let mut leaving = Vec::new();
        for owed in self.owed.values_mut() {
            if owed.whereabouts == Whereabouts::Unsent && owed.deadline > now {
                owed.whereabouts = Whereabouts::Leaving;
                let ttl = owed.deadline - now;
                owed.job = Arc::new(Job { ttl, ..(*owed.job).clone() });
                leaving.push((owed.job.clone(), &owed.caller));
            }
        }
        leaving
    }

    /// The requests presumed lost: queued, and last seen before `before`. With their entries.
    pub(crate) fn presumed_lost(&self, before: Instant) -> Vec<(RequestId, EntryId, &C)> {
        let entry = |(&id, owed): (_, &'_ Owed<C>)| match owed.whereabouts {
            Whereabouts::Queued { entry, seen } if seen < before => Some((id, entry)),
            _ => None,
        };
        let with_caller = |(id, owed)| entry((id, owed)).map(|(id, at)| (id, at, &owed.caller));
        self.owed.iter().filter_map(with_caller).collect()
    }

    /// Notes that a request presumed lost is still in the queue, so that its answer is to come.
    pub(crate) fn found(&mut self, id: RequestId, entry: EntryId, now: Instant) {
        if let Some(owed) = self.owed.get_mut(&id).filter(|owed| owed.is_queued_at(entry)) {
            owed.whereabouts = Whereabouts::Queued { entry, seen: now };
        }
    }

    /// Notes that a request is lost: it is no longer in the queue, and its answer had time to
    /// arrive. Returns whether the request will be sent again; if not, it ends at its deadline.
    pub(crate) fn lost(&mut self, id: RequestId, entry: EntryId, now: Instant) -> bool {
        let Self { owed, budget, .. } = self;
        let Some(owed) = owed.get_mut(&id).filter(|owed| owed.is_queued_at(entry)) else {
            return false;
        };
        let again = owed.resubmit(budget, now);
        if !again {
            // Presumed lost again after another silence: the budget may have recovered by then.
            owed.whereabouts = Whereabouts::Queued { entry, seen: now };
        }
        again
    }

    /// Notes that a worker dropped this attempt, because this gateway had no subscription at that
    /// moment; the request is sent again. If it may not be, it is presumed lost after a silence.
    pub(crate) fn unawaited(&mut self, id: RequestId, attempt: u8, now: Instant) {
        let Self { owed, budget, .. } = self;
        let is_current = |owed: &&mut Owed<C>| {
            owed.job.attempt == attempt && owed.whereabouts != Whereabouts::Unsent
        };
        if let Some(owed) = owed.get_mut(&id).filter(is_current) {
            owed.resubmit(budget, now);
        }
    }
}

impl<C> Owed<C> {
    /// Marks the request as unsent, unless it is too late or was sent too often. Returns whether it
    /// did.
    fn resubmit(&mut self, budget: &mut ResubmissionBudget, now: Instant) -> bool {
        let attempt = self.job.attempt + 1;
        if attempt == MOST_ATTEMPTS || self.deadline <= now || !budget.spend(now) {
            return false;
        }
        // Without the trace: a worker that cannot read jobs with a trace may have removed the job.
        self.job = Arc::new(Job { attempt, trace: None, ..(*self.job).clone() });
        self.whereabouts = Whereabouts::Unsent;
        true
    }

    fn is_queued_at(&self, at: EntryId) -> bool {
        matches!(self.whereabouts, Whereabouts::Queued { entry, .. } if entry == at)
    }
}

/// How many requests may be sent again: a token bucket, filled by accepted requests and by time. It
/// is large enough to send every request once more after the queue was emptied.
#[derive(Debug)]
struct ResubmissionBudget {
    tokens: f64,
    most: f64,
    filled: Instant,
}

impl ResubmissionBudget {
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
