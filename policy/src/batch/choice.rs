//! What N is chosen from besides the settings, and the choice with its reason.

use std::time::Duration;

/// State of the queue when a worker is about to claim.
#[derive(Clone, Copy, Debug)]
pub struct QueueLoad {
    /// W: workers that share the queue.
    pub workers: u32,
    /// λ: rows per second that arrive for all workers; `None` while unknown.
    pub rate: Option<f64>,
    /// Waiting rows; 0 if unknown.
    pub waiting: u32,
    /// Rows in the system, waiting or running, for all workers ([`Standing`](crate::Standing)); 0
    /// if unknown.
    pub standing: f64,
    /// The time that requests have from the queue to their deadline.
    pub allowance: Duration,
    /// Whether N aimed for the rate because of a backlog when it was chosen last.
    pub catching_up: bool,
    /// The time for which the engine waits after each batch although rows wait: for claims, copies
    /// and threads.
    pub outside: Duration,
}

impl QueueLoad {
    /// Returns the load of a queue with `workers` workers about which nothing else is known.
    pub const fn unknown(workers: u32) -> Self {
        Self {
            workers,
            rate: None,
            waiting: 0,
            standing: 0.0,
            allowance: Duration::MAX,
            catching_up: false,
            outside: Duration::ZERO,
        }
    }
}

/// N and the figures from which N was derived.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchChoice {
    /// N: the most rows to claim and run together.
    pub n: u32,
    /// N*: the most rows that keep the latency target; `None` if even one row misses it.
    pub n_star: Option<u32>,
    /// Rows per batch at which the fleet keeps up with the load; below 1 if workers idle between
    /// batches, `None` if the load is unknown or too high.
    pub b_eq: Option<f64>,
    /// Whether the load exceeds the rate that the fleet can reach at batch sizes within the target.
    /// Some requests are then refused or late.
    pub overloaded: bool,
    /// The range of rows from which N was chosen. The lower end is at least `b_eq`. Beyond the
    /// upper end the rate hardly increases or the target is missed.
    pub interval: (u32, u32),
    /// The limit that determined N.
    pub bound: Bound,
}

/// The limit that determined N.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Bound {
    /// The latency target: larger batches would take too long.
    Slo,
    /// The most rows that the model can run.
    MaxBatch,
    /// Larger batches might count as hung.
    MaxBatchTime,
    /// The time of larger batches is unknown: N may double with each batch of N rows.
    Untried,
    /// Throughput: larger batches would keep the target but hardly increase the rate.
    NoGain,
    /// The load: larger batches would hold requests at a busy worker while another worker is idle.
    RateMatched,
    /// A backlog that cannot be answered within the target: throughput takes precedence over
    /// latency.
    Backlog,
    /// The target is missed even with one row: throughput takes precedence over latency.
    SloInfeasible,
    /// Set by the user.
    Fixed,
    /// Published for the whole fleet.
    Published,
}

impl Bound {
    /// All variants.
    pub const ALL: &[Self] = <Self as strum::VariantArray>::VARIANTS;

    /// Returns the variant's name in snake case: a metric label, and the `bound` of announcements.
    pub fn code(self) -> &'static str {
        self.into()
    }
}
