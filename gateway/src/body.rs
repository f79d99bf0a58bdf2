//! Bodies of requests and responses, with limits on size, receive time and total memory.

mod inflate;
mod read;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus::IntGauge;

use batchfleet_oip::Problem;

pub(crate) use self::{
    inflate::Encoding,
    read::{Bounds, read},
};
use crate::error::InferError;

/// The memory budget for bodies: the limit of this process, and the bytes held now.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    most: usize,
    held: AtomicUsize,
    gauge: IntGauge,
}

impl BodyBudget {
    /// A budget of `most` bytes; `gauge` shows the bytes held.
    pub(crate) fn new(most: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { most, held: AtomicUsize::new(0), gauge })
    }

    /// A share of 0 bytes.
    pub(crate) fn share(self: &Arc<Self>) -> BodyShare {
        BodyShare { budget: self.clone(), bytes: 0 }
    }
}

/// The part of the budget that one request holds; released on drop.
#[derive(Debug)]
pub(crate) struct BodyShare {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

impl BodyShare {
    /// Changes the share to `bytes`.
    ///
    /// # Errors
    ///
    /// [`InferError::BodyBytes`]: the budget has no room, and the share is unchanged.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<(), InferError> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            let fits = |held: usize| held.checked_add(more).filter(|sum| *sum <= self.budget.most);
            self.budget
                .held
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
                .map_err(|_| InferError::BodyBytes)?;
        } else {
            self.budget.held.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.count(bytes);
        Ok(())
    }

    /// Changes the share to `bytes` even if the budget has no room. Only for responses, which must
    /// not be discarded: responses may exceed the budget, and the gateway refuses new bodies until
    /// there is room again.
    pub(crate) fn force(&mut self, bytes: usize) {
        if self.resize(bytes).is_err() {
            self.budget.held.fetch_add(bytes - self.bytes, Ordering::Relaxed);
            self.count(bytes);
        }
    }

    fn count(&mut self, bytes: usize) {
        let gauged = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.budget.gauge.add(gauged(bytes) - gauged(self.bytes));
        self.bytes = bytes;
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        self.force(0);
    }
}

/// A request body, and its share of the budget.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) bytes: bytes::Bytes,
    pub(crate) share: BodyShare,
}

/// The problem of a body larger than `limit` bytes: status 413.
pub(crate) fn too_large(limit: usize) -> Problem {
    let message = format!("the body is larger than {limit} bytes");
    Problem { status: 413, code: "too_large", message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(most: usize) -> Arc<BodyBudget> {
        BodyBudget::new(most, IntGauge::new("held", "for tests").unwrap())
    }

    #[test]
    fn shares_never_exceed_the_budget_and_release_their_bytes() {
        let budget = budget(10);
        let (mut one, mut other) = (budget.share(), budget.share());
        one.resize(6).unwrap();
        assert!(matches!(other.resize(5), Err(InferError::BodyBytes)));
        other.resize(4).unwrap();
        one.resize(2).unwrap();
        other.resize(8).unwrap();
        assert_eq!(budget.gauge.get(), 10);
        drop(one);
        drop(other);
        assert_eq!((budget.held.load(Ordering::Relaxed), budget.gauge.get()), (0, 0));
    }

    #[test]
    fn a_response_may_exceed_the_budget_and_new_bodies_are_refused_meanwhile() {
        let budget = budget(10);
        let (mut response, mut new) = (budget.share(), budget.share());
        response.force(25);
        assert_eq!(budget.gauge.get(), 25);
        assert!(new.resize(1).is_err());
        drop(response);
        new.resize(1).unwrap();
        assert_eq!(budget.gauge.get(), 1);
    }
}
