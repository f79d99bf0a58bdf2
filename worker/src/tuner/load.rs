//! Estimates the load of a queue from the claims of one worker.

use std::time::Duration;

use batchfleet_broker::Delivery;
use batchfleet_policy::{ArrivalRate, QueueLoad, Standing};
use tokio::time::Instant;

use crate::limit::whole_units;

/// Weight of the latest batch in the average of the engine's wait.
const SMOOTHING: f64 = 0.05;

/// An estimate of the load that all workers of the queue share.
#[derive(Debug)]
pub(super) struct LoadEstimate {
    /// Workers of the queue, this worker included.
    workers: u32,
    started: Instant,
    /// Rate of the units that this worker claims; the other workers claim at about the same rate.
    arrivals: ArrivalRate,
    arrived: u64,
    claimed_at: Instant,
    /// How long the head of the queue had waited at the last claim; `None` if the queue was empty.
    head: Option<Duration>,
    /// The units in the system, according to this worker's jobs.
    standing: Standing,
    /// The median time from queue to deadline of the jobs of the last claim.
    allowance: Duration,
    /// The time for which the engine waits after a batch although rows wait, on average.
    outside: Duration,
}

impl LoadEstimate {
    /// Starts with an unknown load and this worker only.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            workers: 1,
            started: now,
            arrivals: ArrivalRate::default(),
            arrived: 0,
            claimed_at: now,
            head: None,
            standing: Standing::default(),
            allowance: Duration::MAX,
            outside: Duration::ZERO,
        }
    }

    /// Number of workers of the queue, this worker included.
    pub(super) fn workers(&self) -> u32 {
        self.workers
    }

    /// Updates the number of workers of the queue, this worker included.
    pub(super) fn set_workers(&mut self, workers: usize) {
        self.workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
    }

    /// Records the jobs of a claim, each of which costs its number of `units`, and which will run for
    /// about `takes`; `full` if the claim returned as many jobs as requested.
    pub(super) fn claimed(
        &mut self,
        deliveries: &[Delivery],
        units: &[f64],
        full: bool,
        takes: Duration,
    ) {
        for (job, &units) in deliveries.iter().zip(units) {
            let units = whole_units(units);
            self.add_units(units.into());
            self.standing.add(units, job.waited + takes);
        }
        let given = |job: &Delivery| job.waited + (job.deadline - job.claimed_at);
        let mut given: Vec<Duration> = deliveries.iter().map(given).collect();
        given.sort_unstable();
        self.allowance = given.get(given.len() / 2).copied().unwrap_or(self.allowance);
        // Within a class, the youngest claimed job is about as old as the next job in the queue.
        self.head = deliveries.iter().map(|job| job.waited).min().filter(|_| full);
        self.claimed_at = Instant::now();
    }

    /// Records that the engine waited although rows waited, from the end of a batch to the start of the
    /// next.
    pub(super) fn waited(&mut self, outside: Duration) {
        self.outside = self.outside.mul_f64(1.0 - SMOOTHING) + outside.mul_f64(SMOOTHING);
    }

    /// Records the arrival of `units` units at this worker.
    pub(super) fn add_units(&mut self, units: u64) {
        self.arrived += units;
    }

    /// The current load. `catching_up` is whether N was last chosen for a backlog.
    pub(super) fn demand(&mut self, catching_up: bool) -> QueueLoad {
        let now = Instant::now();
        self.arrivals.observe(now - self.started, self.arrived);
        self.standing.observe(now - self.started);
        let oldest = self.head.map_or(Duration::ZERO, |waited| waited + (now - self.claimed_at));
        let rate = self.units_per_second();
        // Little's law: all waiting units have arrived since the oldest did.
        let waiting = rate.unwrap_or(0.0) * oldest.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let waiting = waiting as u32;
        QueueLoad {
            workers: self.workers,
            rate,
            waiting,
            standing: self.standing.rows() * f64::from(self.workers),
            allowance: self.allowance,
            catching_up,
            outside: self.outside,
        }
    }

    /// The units in the system that are this worker's share.
    pub(super) fn share(&self) -> f64 {
        self.standing.rows()
    }

    /// Units per second that arrive for all workers, assuming that the broker distributes jobs
    /// evenly.
    pub(super) fn units_per_second(&self) -> Option<f64> {
        Some(self.arrivals.per_second()? * f64::from(self.workers))
    }
}
