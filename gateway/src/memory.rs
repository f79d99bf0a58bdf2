//! Memory budgets, which the bodies of requests and the buffers of connections share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus::IntGauge;
use tokio::{task::spawn_blocking, time::interval};

/// How often the memory is compared with earlier samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// The number of samples over which freed memory must stay free, before it is returned.
const CALM_SAMPLES: usize = 3;
/// The most samples between two returns of unused memory.
const LONGEST_PAUSE: usize = 60;
/// The least memory that is returned to the system at a time.
const WORTH_RETURNING: usize = 8 << 20;

/// The reason why a share cannot grow: the budget has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BudgetFull;

/// A memory budget: the limit of this process, and the bytes held now.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    most: usize,
    held: AtomicUsize,
    gauge: IntGauge,
}

impl MemoryBudget {
    /// A budget of `most` bytes; `gauge` shows the bytes held.
    pub(crate) fn new(most: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { most, held: AtomicUsize::new(0), gauge })
    }

    /// A share of 0 bytes.
    pub(crate) fn share(self: &Arc<Self>) -> MemoryShare {
        MemoryShare { budget: self.clone(), bytes: 0 }
    }
}

/// The part of the budget that one request or connection holds; released on drop.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl MemoryShare {
    /// The size of the share.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The size of the whole budget.
    pub(crate) fn budget(&self) -> usize {
        self.budget.most
    }

    /// Changes the share to `bytes`.
    ///
    /// # Errors
    ///
    /// The budget has no room, and the share is unchanged.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<(), BudgetFull> {
        self.resize_within(bytes, self.budget.most)
    }

    /// Changes the share to `bytes`, as if the whole budget had `most` bytes.
    ///
    /// # Errors
    ///
    /// The budget has no room, and the share is unchanged.
    pub(crate) fn resize_within(&mut self, bytes: usize, most: usize) -> Result<(), BudgetFull> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            let fits = |held: usize| held.checked_add(more).filter(|sum| *sum <= most);
            self.budget
                .held
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
                .map_err(|_| BudgetFull)?;
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

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.force(0);
    }
}

/// Task: returns memory to the system after the bytes held have fallen, and when much is unused.
pub(crate) async fn return_freed(budgets: Vec<Arc<MemoryBudget>>) {
    let mut seconds = interval(SAMPLE_INTERVAL);
    let mut calm = Calm::default();
    loop {
        seconds.tick().await;
        let held = budgets.iter().map(|budget| budget.held.load(Ordering::Relaxed)).sum();
        // A failure means that the runtime is shutting down.
        let Ok(unused) = spawn_blocking(batchfleet_heap::unused).await else { return };
        if calm.is_worth_returning(Sample { held, unused })
            && spawn_blocking(batchfleet_heap::release).await.is_err()
        {
            return;
        }
    }
}

/// The memory of this process at one time, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// What the shares of the budgets hold.
    held: usize,
    /// What the system has given to this process and nothing uses.
    unused: usize,
}

/// Compares samples with earlier ones.
#[derive(Debug)]
struct Calm {
    /// The most bytes held since memory was last returned.
    most: usize,
    /// The bytes held at the last samples.
    last: [usize; CALM_SAMPLES],
    /// What was unused when memory was returned, if that was at the last sample.
    returned: Option<usize>,
    /// The samples that a return because of unused memory waits after a return.
    pause: usize,
    /// What is left of the pause.
    wait: usize,
}

impl Default for Calm {
    fn default() -> Self {
        let last = Default::default();
        Self { most: 0, last, returned: None, pause: CALM_SAMPLES, wait: CALM_SAMPLES }
    }
}

impl Calm {
    /// Takes a sample. Returns whether much less is held than before, and has been for a while, or
    /// whether much more is unused than requests use again: connections have more memory than their
    /// shares. What lies between used memory cannot be returned, so the pause doubles after a return in
    /// vain.
    fn is_worth_returning(&mut self, Sample { held, unused }: Sample) -> bool {
        self.last.rotate_left(1);
        self.last[CALM_SAMPLES - 1] = held;
        self.most = self.most.max(held);
        if let Some(before) = self.returned.take() {
            let was_in_vain = before.saturating_sub(unused) < WORTH_RETURNING;
            self.pause = if was_in_vain { LONGEST_PAUSE.min(2 * self.pause) } else { CALM_SAMPLES };
            self.wait = self.pause;
        }
        self.wait = self.wait.saturating_sub(1);
        let recent = self.last.iter().copied().max().unwrap_or(held);
        let has_fallen = self.most - recent >= WORTH_RETURNING;
        // What a request has held is unused until the next one.
        let is_unused = self.wait == 0 && unused > 2 * (recent + WORTH_RETURNING);
        let is_worth = has_fallen || is_unused;
        if is_worth {
            (self.most, self.returned) = (recent, Some(unused));
        }
        is_worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(most: usize) -> Arc<MemoryBudget> {
        MemoryBudget::new(most, IntGauge::new("held", "for tests").unwrap())
    }

    #[test]
    fn shares_never_exceed_the_budget_and_release_their_bytes() {
        let budget = budget(10);
        let (mut one, mut other) = (budget.share(), budget.share());
        one.resize(6).unwrap();
        assert_eq!(other.resize(5), Err(BudgetFull));
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

    #[test]
    fn memory_is_returned_once_after_it_has_stayed_free() {
        let mut calm = Calm::default();
        let mut is_worth = |held| calm.is_worth_returning(Sample { held, unused: 0 });
        let much = 3 * WORTH_RETURNING;
        let samples = [much, much, 0, much, 0, 0, 0, 0, much, much, much, WORTH_RETURNING];
        let returned: Vec<_> = (0..samples.len()).filter(|at| is_worth(samples[*at])).collect();
        assert_eq!(returned, [6]);
        assert!(!is_worth(WORTH_RETURNING));
        assert!(is_worth(WORTH_RETURNING), "three samples");
    }

    #[test]
    fn unused_memory_is_returned_unless_requests_use_it_again_or_it_stays() {
        const PART: usize = WORTH_RETURNING;
        /// The samples, in parts, at which memory is returned.
        fn returned(samples: impl IntoIterator<Item = (usize, usize)>) -> Vec<usize> {
            let mut calm = Calm::default();
            let sample = |(held, unused)| Sample { held: held * PART, unused: unused * PART };
            let samples = samples.into_iter().enumerate();
            let worth = samples.filter(|(_, parts)| calm.is_worth_returning(sample(*parts)));
            worth.map(|(at, _)| at).collect()
        }
        assert!(returned(vec![(0, 2); 100]).is_empty(), "too little");
        assert!(returned(vec![(3, 8); 100]).is_empty(), "of requests");
        // A part is returned at once, and the rest when what lay between is no longer used.
        let connections = [(0, 9), (0, 9), (0, 9), (0, 5), (0, 5), (0, 5), (0, 1), (0, 1)];
        assert_eq!(returned(connections), [2, 5]);
        // In vain.
        let pauses = returned(vec![(0, 9); 600]);
        assert_eq!(pauses[..5], [2, 8, 20, 44, 92]);
        assert!(pauses.windows(2).all(|pair| pair[1] - pair[0] <= LONGEST_PAUSE), "{pauses:?}");
        assert!(pauses.len() < 15, "{pauses:?}");
    }
}
