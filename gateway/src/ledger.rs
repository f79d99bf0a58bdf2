//! The ledger of outstanding requests, and the decision when to resubmit their jobs: a state
//! machine without clock or I/O. The gateway owns each request until the answer; the queue may lose
//! any job or reply.
//!
//! A request is *unsent* (to be sent when the queue can be reached), *leaving* (being sent), or
//! *queued*. A queued request is presumed lost after a long silence, or when the queue was
//! interrupted after the job was last seen there. If the job is no longer in the queue and no reply
//! has arrived, the request becomes unsent again, and its job is resubmitted under the same id. The
//! first reply is delivered, later replies are dropped.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use batchfleet_broker::{
    EntryId, Job, Pushed, Reply, RequestId,
    offer::{Item, fill_in},
};
use bytes::Bytes;
use subtle::ConstantTimeEq;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// Maximum number of times that a request is sent.
pub(crate) const MOST_ATTEMPTS: u8 = 4;
/// The silence, i.e. time without a reply, after which a queued request is presumed lost.
pub(crate) const SILENCE: Duration = Duration::from_secs(6);
/// Resubmissions that each accepted request, and each second, add to the budget. A fleet that loses
/// more jobs has a fault that resubmissions make worse.
const EARNED_PER_REQUEST: f64 = 0.2;
const EARNED_PER_SECOND: f64 = 10.0;

/// The outstanding requests of this gateway; `C` is the type of their callers.
#[derive(Debug)]
pub(crate) struct Ledger<C> {
    owed: HashMap<RequestId, Owed<C>>,
    /// Requests for the next pipelines, oldest first. May contain requests that have ended.
    line: VecDeque<RequestId>,
    budget: ResubmissionBudget,
}

#[derive(Debug)]
struct Owed<C> {
    caller: C,
    job: Arc<Job>,
    deadline: Instant,
    whereabouts: Whereabouts,
    outputs: Option<TakenOutputs>,
}

/// Outputs that a worker has pushed before its reply.
#[derive(Debug)]
pub(crate) struct TakenOutputs {
    /// The data of all outputs.
    pub(crate) data: Bytes,
    /// The [digest](batchfleet_broker::offer::data_digest) of the data.
    pub(crate) digest: u64,
    /// The memory that they take.
    pub(crate) _room: OwnedSemaphorePermit,
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

/// What to do with a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolution<C> {
    /// The reply belongs to this caller.
    Deliver(C),
    /// No request waits for the reply: the request was answered or given up.
    Unclaimed,
    /// The reply was computed from an input other than this caller's.
    Misrouted(C),
    /// The outputs do not travel with the reply, and the ledger does not have them. The request goes on.
    Incomplete,
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

    /// Adds a request in the state *leaving*.
    pub(crate) fn accept(&mut self, job: Arc<Job>, deadline: Instant, caller: C) {
        self.budget.earn(EARNED_PER_REQUEST);
        let whereabouts = Whereabouts::Leaving;
        let outputs = None;
        self.owed.insert(job.id, Owed { caller, job, deadline, whereabouts, outputs });
    }

    /// Adds a leaving request to the line for the next pipeline.
    pub(crate) fn line_up(&mut self, id: RequestId) {
        self.line.push_back(id);
    }

    /// Takes the next requests from the line: at most `size` bytes of jobs, or one larger job.
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

    /// Records that a leaving request has reached the queue. Returns `false` if the request has
    /// ended and its job should be withdrawn.
    pub(crate) fn sent(&mut self, id: RequestId, entry: EntryId, now: Instant) -> bool {
        let Some(owed) = self.owed.get_mut(&id) else { return false };
        // A worker may have dropped the job already, in which case the request is unsent again.
        if owed.whereabouts == Whereabouts::Leaving {
            owed.whereabouts = Whereabouts::Queued { entry, seen: now };
        }
        true
    }

    /// Records that a leaving request may not have reached the queue.
    pub(crate) fn unsent(&mut self, id: RequestId) {
        if let Some(owed) = self.owed.get_mut(&id) {
            owed.whereabouts = Whereabouts::Unsent;
        }
    }

    /// Ends a request without an answer; returns its queue entry, if any.
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

    /// Ends a request with a reply. Completes the reply with the outputs that were pushed.
    pub(crate) fn resolve(&mut self, reply: &mut Reply) -> Resolution<C> {
        match self.owed.entry(reply.id) {
            Entry::Vacant(_) => Resolution::Unclaimed,
            Entry::Occupied(mut owed) => {
                if let Some(pushed) = reply.pushed.take() {
                    let taken = owed.get_mut().outputs.take();
                    if !complete(reply, &pushed, taken) {
                        return Resolution::Incomplete;
                    }
                }
                let Owed { caller, job, .. } = owed.remove();
                if job.digest == reply.digest {
                    Resolution::Deliver(caller)
                } else {
                    Resolution::Misrouted(caller)
                }
            }
        }
    }

    /// Whether the ledger has no outstanding requests.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Takes the unsent requests whose deadline has not passed, and marks them as leaving.
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

    /// The requests presumed lost, with their queue entries: queued, and last seen before `before`.
    pub(crate) fn presumed_lost(&self, before: Instant) -> Vec<(RequestId, EntryId, &C)> {
        let entry = |(&id, owed): (_, &'_ Owed<C>)| match owed.whereabouts {
            Whereabouts::Queued { entry, seen } if seen < before => Some((id, entry)),
            _ => None,
        };
        let with_caller = |(id, owed)| entry((id, owed)).map(|(id, at)| (id, at, &owed.caller));
        self.owed.iter().filter_map(with_caller).collect()
    }

    /// The queued requests of these callers, with their queue entries.
    pub(crate) fn queued(&self, of: impl Fn(&C) -> bool) -> Vec<(RequestId, EntryId, &C)> {
        let entry = |(&id, owed): (_, &'_ Owed<C>)| match owed.whereabouts {
            Whereabouts::Queued { entry, .. } => Some((id, entry)),
            _ => None,
        };
        let owed = self.owed.iter().filter(|(_, owed)| of(&owed.caller));
        let with_caller = |(id, owed)| entry((id, owed)).map(|(id, at)| (id, at, &owed.caller));
        owed.filter_map(with_caller).collect()
    }

    /// Ends a request whose job was removed from the queue; returns the caller.
    pub(crate) fn release_queued(&mut self, id: RequestId, entry: EntryId) -> Option<C> {
        let is_there = self.owed.get(&id).is_some_and(|owed| owed.is_queued_at(entry));
        if is_there { self.release(id) } else { None }
    }

    /// Ends the unsent requests of these callers; returns the callers.
    pub(crate) fn release_unsent(&mut self, of: impl Fn(&C) -> bool) -> Vec<C> {
        let is_unsent =
            |owed: &Owed<C>| owed.whereabouts == Whereabouts::Unsent && of(&owed.caller);
        self.owed.extract_if(|_, owed| is_unsent(owed)).map(|(_, owed)| owed.caller).collect()
    }

    /// Records that the job of a request presumed lost is still in the queue.
    pub(crate) fn found(&mut self, id: RequestId, entry: EntryId, now: Instant) {
        if let Some(owed) = self.owed.get_mut(&id).filter(|owed| owed.is_queued_at(entry)) {
            owed.whereabouts = Whereabouts::Queued { entry, seen: now };
        }
    }

    /// Records that a request is lost: its job is no longer in the queue, and its reply had time to
    /// arrive. Returns whether the request will be resubmitted; if not, the request ends at its
    /// deadline.
    pub(crate) fn lost(&mut self, id: RequestId, entry: EntryId, now: Instant) -> bool {
        let Self { owed, budget, .. } = self;
        let Some(owed) = owed.get_mut(&id).filter(|owed| owed.is_queued_at(entry)) else {
            return false;
        };
        let again = owed.resubmit(budget, now);
        if !again {
            // The next check follows after another silence, when the budget may have recovered.
            owed.whereabouts = Whereabouts::Queued { entry, seen: now };
        }
        again
    }

    /// Records that a worker dropped this attempt, because this gateway was unsubscribed or the worker
    /// could not fetch the inputs. The request is resubmitted or, if the limits forbid a resubmission,
    /// presumed lost after a silence. Returns the caller if the request waits for this attempt.
    pub(crate) fn dropped(&mut self, id: RequestId, attempt: u8, now: Instant) -> Option<&C> {
        let Self { owed, budget, .. } = self;
        let is_current = |owed: &&mut Owed<C>| {
            owed.job.attempt == attempt && owed.whereabouts != Whereabouts::Unsent
        };
        let owed = owed.get_mut(&id).filter(is_current)?;
        owed.resubmit(budget, now);
        Some(&owed.caller)
    }

    /// Whether outputs for an outstanding request, offered under this key, are taken.
    pub(crate) fn takes_outputs(&self, item: Item) -> bool {
        self.offered(item).is_some()
            && self.owed.get(&item.id).is_some_and(|owed| owed.outputs.is_none())
    }

    /// Keeps outputs until the reply, unless the request has ended.
    pub(crate) fn put_outputs(&mut self, item: Item, outputs: TakenOutputs) {
        if self.takes_outputs(item)
            && let Some(owed) = self.owed.get_mut(&item.id)
        {
            owed.outputs = Some(outputs);
        }
    }

    /// The job of an outstanding request whose inputs are offered under this key.
    pub(crate) fn offered(&self, Item { id, key }: Item) -> Option<Arc<Job>> {
        let job = &self.owed.get(&id)?.job;
        let offered = job.offer.as_ref()?.key.0.to_le_bytes();
        bool::from(offered[..].ct_eq(&key.0.to_le_bytes()[..])).then(|| job.clone())
    }
}

/// Gives the outputs of a reply their data. Returns `false` if they are not those that the worker has
/// computed.
fn complete(reply: &mut Reply, pushed: &Pushed, taken: Option<TakenOutputs>) -> bool {
    let (Ok(outputs), Some(TakenOutputs { data, digest, .. })) = (&mut reply.outcome, taken) else {
        return false;
    };
    let filled = fill_in(outputs, &pushed.lengths, data).filter(|_| digest == pushed.digest);
    let is_complete = filled.is_some();
    *outputs = filled.unwrap_or_default();
    is_complete
}

impl<C> Owed<C> {
    /// Marks the request as unsent, if its deadline, its attempts and the budget allow a
    /// resubmission. Returns `false` otherwise.
    fn resubmit(&mut self, budget: &mut ResubmissionBudget, now: Instant) -> bool {
        let attempt = self.job.attempt + 1;
        if attempt == MOST_ATTEMPTS || self.deadline <= now || !budget.spend(now) {
            return false;
        }
        // Without the trace and the offer: the job may have been removed by a worker that cannot read
        // them, or that cannot reach this gateway.
        self.job = Arc::new(Job { attempt, trace: None, offer: None, ..(*self.job).clone() });
        self.whereabouts = Whereabouts::Unsent;
        true
    }

    fn is_queued_at(&self, at: EntryId) -> bool {
        matches!(self.whereabouts, Whereabouts::Queued { entry, .. } if entry == at)
    }
}

/// Limits resubmissions: a token bucket, filled by accepted requests and by time. A full bucket
/// suffices to resubmit every request once after Redis has lost its data.
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
