//! The load of a queue, as far as one worker can know it from its own claims.

use std::time::Duration;

use batchfleet_broker::Delivery;
use batchfleet_policy::{ArrivalRate, QueueLoad};
use tokio::time::Instant;

/// An estimate of the load that all workers of the queue share.
#[derive(Debug)]
pub(super) struct LoadEstimate {
    /// Workers of the queue, this one included.
    workers: u32,
    started: Instant,
    /// Rate of the rows that this worker claims; each other worker claims about as many.
    arrivals: ArrivalRate,
    arrived: u64,
    claimed_at: Instant,
    /// How long the head of the queue had waited at the last claim; `None` if the queue was empty.
    head: Option<Duration>,
}

impl LoadEstimate {
    /// Nothing is known about the load, and this worker is alone.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            workers: 1,
            started: now,
            arrivals: ArrivalRate::default(),
            arrived: 0,
            claimed_at: now,
            head: None,
        }
    }

    /// Workers of the queue.
    pub(super) fn workers(&self) -> u32 {
        self.workers
    }

    /// Other workers have joined or left the queue; `workers` counts this one too.
    pub(super) fn set_workers(&mut self, workers: usize) {
        self.workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
    }

    /// Takes in the jobs of a claim; `full` if the claim got as many as it asked for.
    pub(super) fn claimed(&mut self, deliveries: &[Delivery], full: bool) {
        self.add_rows(deliveries.iter().map(|job| u64::from(job.job.rows)).sum());
        // Within a class, the youngest job claimed is about as old as the next in the queue.
        self.head = deliveries.iter().map(|job| job.waited).min().filter(|_| full);
        self.claimed_at = Instant::now();
    }

    /// Takes in that `rows` have arrived at this worker.
    pub(super) fn add_rows(&mut self, rows: u64) {
        self.arrived += rows;
    }

    /// The load now.
    pub(super) fn demand(&mut self) -> QueueLoad {
        let now = Instant::now();
        self.arrivals.observe(now - self.started, self.arrived);
        let oldest = self.head.map_or(Duration::ZERO, |waited| waited + (now - self.claimed_at));
        let rate = self.rows_per_second();
        // Little's law: all waiting rows have arrived since the oldest did.
        let waiting = rate.unwrap_or(0.0) * oldest.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let waiting = waiting as u32;
        QueueLoad { workers: self.workers, rate, waiting, oldest }
    }

    /// Rows that arrive per second for all workers: the broker gives each about as many.
    pub(super) fn rows_per_second(&self) -> Option<f64> {
        Some(self.arrivals.per_second()? * f64::from(self.workers))
    }
}
