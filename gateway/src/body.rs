//! The bodies of requests and answers: bounded in size, in time and in what they hold together.

mod inflate;
mod read;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus::IntGauge;

pub(crate) use self::{
    inflate::Encoding,
    read::{Bounds, read},
};
use batchfleet_oip::Problem;

use crate::error::InferError;

/// The bytes of bodies that this process may hold, and holds.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    held: AtomicUsize,
    gauge: IntGauge,
}

impl Budget {
    /// `gauge` shows what is held.
    pub(crate) fn new(most: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { most, held: AtomicUsize::new(0), gauge })
    }

    /// A share of nothing yet.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

/// What one request holds of the budget; given back on drop.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Makes it `bytes` large.
    ///
    /// # Errors
    ///
    /// [`InferError::BodyBytes`]: the others leave no room; the share stays as it was.
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

    /// Makes it `bytes` large whether there is room or not: nothing that was computed is thrown
    /// away, but no new body comes in until there is room again.
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

impl Drop for Share {
    fn drop(&mut self) {
        self.force(0);
    }
}

/// A body, and its share of the budget.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) bytes: bytes::Bytes,
    pub(crate) share: Share,
}

/// The body is larger than is taken.
pub(crate) fn too_large(limit: usize) -> Problem {
    let message = format!("the body is larger than {limit} bytes");
    Problem { status: 413, code: "too_large", message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(most: usize) -> Arc<Budget> {
        Budget::new(most, IntGauge::new("held", "for tests").unwrap())
    }

    #[test]
    fn shares_together_never_grow_beyond_the_budget_and_give_back_what_they_held() {
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
    fn an_answer_is_held_even_beyond_the_budget_and_keeps_new_bodies_out() {
        let budget = budget(10);
        let (mut answer, mut new) = (budget.share(), budget.share());
        answer.force(25);
        assert_eq!(budget.gauge.get(), 25);
        assert!(new.resize(1).is_err());
        drop(answer);
        new.resize(1).unwrap();
        assert_eq!(budget.gauge.get(), 1);
    }
}
