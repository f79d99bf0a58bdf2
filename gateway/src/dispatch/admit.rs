//! Admission: decides which requests the gateway accepts.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use batchfleet_broker::Priority;
use batchfleet_policy::Ahead;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use super::line::JobRequest;
use crate::{books::Admitted, error::InferError, model::Model, outstanding::RequestWork};

/// Random factors for `Retry-After`, which spread the next attempts of refused clients over time.
const JITTER: Range<f64> = 0.8..1.2;

/// Admits requests. Each admitted request takes one of a fixed number of seats.
pub(super) struct Admission {
    seats: Arc<Semaphore>,
    draining: CancellationToken,
    queue_full: AtomicBool,
}

/// The input of an admission decision.
struct Conditions {
    draining: bool,
    /// A worker serves the model, or a controller promises to start one.
    served: bool,
    queue: QueueState,
    /// The work ahead of the request.
    ahead: Ahead,
    /// The maximum number of waiting jobs ahead, if the model's config limits it.
    most_ahead: Option<u32>,
    /// Time until the request's deadline.
    remaining: Duration,
    priority: Priority,
}

/// Whether the queue takes jobs.
#[derive(Clone, Copy)]
enum QueueState {
    Open,
    /// Redis is almost out of memory.
    Full,
    Unreachable,
}

/// The reason why a request is not admitted.
#[derive(Debug, PartialEq)]
enum Obstacle {
    Draining,
    NoWorkers,
    Unreachable,
    Full,
    /// As many requests wait as the model's config allows.
    Limit,
    /// The queue is too long. Contains the time until the queue may be short enough.
    Wait(Duration),
}

impl Admission {
    pub(super) fn new(seats: usize, draining: CancellationToken) -> Self {
        Self {
            seats: Arc::new(Semaphore::new(seats.min(Semaphore::MAX_PERMITS))),
            draining,
            queue_full: AtomicBool::new(false),
        }
    }

    /// Admits a request and gives it a seat.
    pub(super) fn admit(
        &self,
        model: &Model,
        request: &JobRequest,
        reachable: bool,
    ) -> Result<Admitted, InferError> {
        let JobRequest { priority, deadline, .. } = *request;
        let (rows, units) = (request.rows, model.units(request.rows, &request.inputs));
        let work = RequestWork { priority, rows, units };
        self.judge(model, work, deadline, reachable)?;
        let seat = self.seats.clone().try_acquire_owned().map_err(|_| InferError::InFlight)?;
        Ok(Admitted { _seat: seat, work })
    }

    /// Whether a request of this `work` would be admitted now.
    pub(super) fn would_admit(
        &self,
        model: &Model,
        work: RequestWork,
        deadline: Instant,
        reachable: bool,
    ) -> Result<(), InferError> {
        self.judge(model, work, deadline, reachable)?;
        if self.seats.available_permits() == 0 { Err(InferError::InFlight) } else { Ok(()) }
    }

    fn judge(
        &self,
        model: &Model,
        work: RequestWork,
        deadline: Instant,
        reachable: bool,
    ) -> Result<(), InferError> {
        let priority = work.priority;
        let conditions = Conditions {
            draining: self.draining.is_cancelled(),
            served: model.is_available(),
            queue: match (reachable, self.queue_full.load(Relaxed)) {
                (false, _) => QueueState::Unreachable,
                (true, true) => QueueState::Full,
                (true, false) => QueueState::Open,
            },
            ahead: model.ahead(work),
            most_ahead: model.limits(priority).max_waiting,
            remaining: deadline.saturating_duration_since(Instant::now()),
            priority,
        };
        conditions.decide().map_err(|obstacle| match obstacle {
            Obstacle::Draining => InferError::Draining,
            Obstacle::NoWorkers => InferError::NoWorkers(model.spec.queue.model.clone()),
            Obstacle::Unreachable => InferError::QueueUnreachable,
            Obstacle::Full => InferError::QueueFull,
            Obstacle::Limit => InferError::QueueLimit,
            Obstacle::Wait(time) => InferError::QueueWait(time.mul_f64(rand::random_range(JITTER))),
        })
    }

    pub(super) fn set_queue_full(&self, full: bool) {
        self.queue_full.store(full, Relaxed);
    }
}

impl Conditions {
    fn decide(&self) -> Result<(), Obstacle> {
        if self.draining {
            return Err(Obstacle::Draining);
        }
        if !self.served {
            return Err(Obstacle::NoWorkers);
        }
        match self.queue {
            QueueState::Open => {}
            QueueState::Full => return Err(Obstacle::Full),
            QueueState::Unreachable => return Err(Obstacle::Unreachable),
        }
        if self.most_ahead.is_some_and(|most| self.ahead.jobs >= f64::from(most)) {
            return Err(Obstacle::Limit);
        }
        batchfleet_policy::admit(&self.ahead, self.remaining, waiting_share(self.priority))
            .map_err(Obstacle::Wait)
    }
}

/// The share of its deadline that a request may spend waiting. Under overload, requests of the
/// class sheddable are therefore refused first.
const fn waiting_share(priority: Priority) -> f64 {
    match priority {
        Priority::Critical => 1.0,
        Priority::Default => 0.75,
        Priority::Sheddable => 0.25,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that can be admitted, with a deadline in 10 s.
    fn fine() -> Conditions {
        Conditions {
            draining: false,
            served: true,
            queue: QueueState::Open,
            ahead: Ahead { jobs: 0.0, rows: 0.0, rate: 100.0, batch: Duration::from_millis(10) },
            most_ahead: None,
            remaining: Duration::from_secs(10),
            priority: Priority::Default,
        }
    }

    #[test]
    fn each_obstacle_is_named() {
        assert_eq!(fine().decide(), Ok(()));
        let draining = Conditions { draining: true, served: false, ..fine() };
        assert_eq!(draining.decide(), Err(Obstacle::Draining));
        let unserved = Conditions { served: false, queue: QueueState::Unreachable, ..fine() };
        assert_eq!(unserved.decide(), Err(Obstacle::NoWorkers));
        let unreachable = Conditions { queue: QueueState::Unreachable, ..fine() };
        assert_eq!(unreachable.decide(), Err(Obstacle::Unreachable));
        let full = Conditions { queue: QueueState::Full, ..fine() };
        assert_eq!(full.decide(), Err(Obstacle::Full));
    }

    #[test]
    fn a_config_limits_the_requests_that_wait() {
        for (jobs, most, admitted) in
            [(3.0, None, true), (3.0, Some(4), true), (4.0, Some(4), false), (0.0, Some(1), true)]
        {
            let conditions =
                Conditions { ahead: Ahead { jobs, ..fine().ahead }, most_ahead: most, ..fine() };
            let expected = if admitted { Ok(()) } else { Err(Obstacle::Limit) };
            assert_eq!(conditions.decide(), expected, "{jobs} {most:?}");
        }
    }

    #[test]
    fn under_overload_lower_classes_are_refused_first() {
        // 400 rows at 100 per second: a wait of 4 s.
        let ahead = Ahead { rows: 400.0, ..fine().ahead };
        let decide = |priority| Conditions { ahead, priority, ..fine() }.decide().is_ok();
        let classes = [Priority::Critical, Priority::Default, Priority::Sheddable];
        assert_eq!(classes.map(decide), [true, true, false]);
    }
}
