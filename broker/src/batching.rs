//! How a worker chooses N, and its recent batches, as published in its announcement.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// The measurements of a worker, the N chosen from them, and the last batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Batching {
    /// N, the maximum rows per batch.
    pub n: u32,
    /// The constraint that determined N.
    pub bound: BatchBound,
    /// The interval from which N was chosen: from the fewest rows that keep up with the load, to
    /// the most rows that meet the latency target and still increase throughput.
    pub interval: (u32, u32),
    /// N under full load. [`capacity`](crate::Announcement::capacity) assumes batches of this size.
    pub full_load_n: u32,
    /// The most rows that meet the latency target; `None` if a single row exceeds it.
    pub slo_n: Option<u32>,
    /// Rows per batch needed to keep up with the load. Below 1 if the fleet is idle between
    /// batches; `None` while the load is unknown.
    pub keep_up_rows: Option<f64>,
    /// Whether the load exceeds the capacity of all workers within the latency target.
    pub overloaded: bool,
    /// The latency target, in milliseconds.
    pub slo_ms: f64,
    /// The part of the latency target that is neither waiting nor computing, in milliseconds.
    pub overhead_ms: f64,
    /// Workers on the queue, as known to this worker.
    pub workers: u32,
    /// Estimated arrival rate of the queue, in rows per second.
    pub rows_per_second: Option<f64>,
    /// The [epoch](crate::Target::epoch) of the published target that the worker follows; 0 for
    /// none.
    pub epoch: u64,
    /// Current estimate of L(b), the time to run b rows: rows and milliseconds, at the measured
    /// sizes.
    pub curve: Vec<(u32, f64)>,
    /// Whether the worker runs batches of these sizes only, and pads smaller batches.
    pub fixed_sizes: bool,
    /// How much slower batches are now than at startup, as a factor.
    pub gain: f64,
    /// How much longer a batch takes if the batch before had another size, in milliseconds; 0 from
    /// programs that do not announce it.
    #[serde(default)]
    pub size_change_ms: f64,
    /// The share of full batches that is padding of shorter requests; 0 from programs that do not
    /// announce it.
    #[serde(default)]
    pub padding_share: f64,
    /// How many more rows a batch would have on average, if requests of other shapes could join it; 0
    /// from programs that do not announce it.
    #[serde(default)]
    pub rows_lost_to_shapes: f64,
    /// What a row of the usual length costs, in units: the shortest row costs one. N, the curve and the
    /// capacity are of such rows. 1 if rows of all lengths cost the same, and from programs that do not
    /// announce it.
    #[serde(default = "one")]
    pub row_units: f64,
    /// What rows cost by their length, in units, in order of length; empty if rows of all lengths cost
    /// the same, and from programs that do not announce it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units_by_length: Vec<(u64, f64)>,
    /// The last batches, latest first.
    pub recent: Vec<RecentBatch>,
}

const fn one() -> f64 {
    1.0
}

impl Batching {
    /// Current estimate of L(b), the time to run b rows: rows and time.
    pub fn profile(&self) -> Vec<(u32, Duration)> {
        self.curve.iter().map(|&(rows, ms)| (rows, milliseconds(ms))).collect()
    }

    /// The latency target.
    pub fn slo(&self) -> Duration {
        milliseconds(self.slo_ms)
    }

    /// The part of the latency target that is neither waiting nor computing.
    pub fn overhead(&self) -> Duration {
        milliseconds(self.overhead_ms)
    }

    /// N, if it is fixed instead of following the load.
    pub fn by_hand(&self) -> Option<u32> {
        matches!(self.bound, BatchBound::Fixed | BatchBound::Published | BatchBound::Memory)
            .then_some(self.n)
    }
}

/// The constraint that determined N.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchBound {
    /// Larger batches would exceed the latency target.
    #[default]
    Slo,
    /// The model may not run more rows.
    MaxBatch,
    /// Larger batches might count as hung.
    MaxBatchTime,
    /// The time of larger batches is not known yet: N may double with each full batch.
    Untried,
    /// Larger batches would meet the latency target, but not increase throughput.
    NoGain,
    /// Larger batches would keep requests waiting while another worker is free.
    RateMatched,
    /// The requests that are there cannot be answered within the latency target, so throughput takes
    /// precedence.
    Backlog,
    /// A single row exceeds the latency target, so throughput takes precedence.
    SloInfeasible,
    /// The worker was started with a fixed N.
    Fixed,
    /// A fixed N was published for the queue.
    Published,
    /// Larger batches ran out of memory.
    Memory,
    /// Answers of batches differed from the answers to the same requests alone.
    Mismatch,
    /// A reason that only newer workers know, as announced.
    #[serde(untagged)]
    Other(String),
}

impl BatchBound {
    /// The text in announcements and explanations.
    pub fn code(&self) -> &str {
        match self {
            Self::Slo => "slo",
            Self::MaxBatch => "max_batch",
            Self::MaxBatchTime => "max_batch_time",
            Self::Untried => "untried",
            Self::NoGain => "no_gain",
            Self::RateMatched => "rate_matched",
            Self::Backlog => "backlog",
            Self::SloInfeasible => "slo_infeasible",
            Self::Fixed => "fixed",
            Self::Published => "published",
            Self::Memory => "memory",
            Self::Mismatch => "mismatch",
            Self::Other(code) => code,
        }
    }
}

impl fmt::Display for BatchBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

fn milliseconds(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default()
}

/// A batch that ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecentBatch {
    /// Rows of requests in the batch.
    pub rows: u32,
    /// Rows of padding, added to reach a size that the engine runs.
    pub padding: u32,
    /// N when the batch was formed.
    pub limit: u32,
    /// How long the model ran, in milliseconds.
    pub ms: f64,
    /// Why the batch was released: the [name](Release::name) of a [`Release`].
    pub release: String,
}

/// Why a batch was released to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumCount, strum::FromRepr)]
#[repr(u8)]
pub enum Release {
    /// No more rows fit.
    Full = 1,
    /// No other request was waiting.
    Drained = 2,
    /// The batch had waited for other requests: as long as the linger setting allows, or for those that
    /// follow answers.
    Linger = 3,
    /// The other waiting requests have a different shape.
    Shape = 4,
    /// A request with more rows than N whose outputs cannot be joined from parts: it runs alone.
    Oversize = 5,
    /// A request from the batch of a worker that died, which runs alone.
    Quarantined = 6,
}

impl Release {
    /// Every reason, in the order of its wire code.
    pub const ALL: [Self; <Self as strum::EnumCount>::COUNT] =
        [Self::Full, Self::Drained, Self::Linger, Self::Shape, Self::Oversize, Self::Quarantined];

    /// The `reason` label in metrics, and the text in explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Drained => "drained",
            Self::Linger => "linger",
            Self::Shape => "shape",
            Self::Oversize => "oversize",
            Self::Quarantined => "suspect",
        }
    }

    /// The code on the wire; never 0.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason with this wire code.
    pub const fn from_code(code: u8) -> Option<Self> {
        Self::from_repr(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_its_code_in_json_and_an_unknown_one_survives() {
        use BatchBound::{
            Backlog, Fixed, MaxBatch, Memory, NoGain, Other, Published, RateMatched, Slo,
            SloInfeasible,
        };
        let known = [
            (Slo, "slo"),
            (MaxBatch, "max_batch"),
            (NoGain, "no_gain"),
            (RateMatched, "rate_matched"),
            (Backlog, "backlog"),
            (SloInfeasible, "slo_infeasible"),
            (Fixed, "fixed"),
            (Published, "published"),
            (Memory, "memory"),
            (Other("of_the_future".into()), "of_the_future"),
        ];
        for (bound, code) in known {
            let json = serde_json::to_string(&bound).unwrap();
            assert_eq!(json, format!("{code:?}"));
            assert_eq!(bound.code(), code);
            assert_eq!(serde_json::from_str::<BatchBound>(&json).unwrap(), bound);
        }
    }
}
