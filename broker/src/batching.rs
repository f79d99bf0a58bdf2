//! How a worker chooses N and what came of it, for whoever wants to understand it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// What a worker knows, what it chose from that, and what it ran of late.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Batching {
    /// N: the most rows it claims and runs together.
    pub n: u32,
    /// What decided N.
    pub bound: BatchBound,
    /// What N was chosen from: rows enough to keep up with the load, and the most that keep the
    /// latency target and bring more than latency.
    pub interval: (u32, u32),
    /// N if there were all the load it could take; [`capacity`](crate::Announcement::capacity) is of
    /// batches of this size.
    pub full_load_n: u32,
    /// The most rows that keep the latency target; `None` if not even one does.
    pub slo_n: Option<u32>,
    /// Rows that batches must have to keep up with the load; below one if the fleet idles in
    /// between, `None` while the load is unknown.
    pub keep_up_rows: Option<f64>,
    /// Whether the load is more than all workers can do within the latency target.
    pub overloaded: bool,
    /// The latency target it goes by, in milliseconds.
    pub slo_ms: f64,
    /// What of that goes to neither waiting nor computing, in milliseconds.
    pub overhead_ms: f64,
    /// Workers on its queue, as it sees it.
    pub workers: u32,
    /// Rows per second that arrive for all of them, as it sees it.
    pub rows_per_second: Option<f64>,
    /// The [epoch](crate::Target::epoch) of the published target it goes by; 0 for none.
    pub epoch: u64,
    /// L(b) as it is believed now: rows, and milliseconds, at the sizes that were measured.
    pub curve: Vec<(u32, f64)>,
    /// Whether it runs only those sizes, and pads.
    pub fixed_sizes: bool,
    /// How much slower than at start batches are just now.
    pub gain: f64,
    /// The last batches, latest first.
    pub recent: Vec<RecentBatch>,
}

impl Batching {
    /// L(b) as it is believed now: rows, and how long they take.
    pub fn profile(&self) -> Vec<(u32, Duration)> {
        self.curve.iter().map(|&(rows, ms)| (rows, milliseconds(ms))).collect()
    }

    /// The latency target it goes by.
    pub fn slo(&self) -> Duration {
        milliseconds(self.slo_ms)
    }

    /// What of that goes to neither waiting nor computing.
    pub fn overhead(&self) -> Duration {
        milliseconds(self.overhead_ms)
    }

    /// N, where it does not follow from the load.
    pub fn by_hand(&self) -> Option<u32> {
        matches!(self.bound, BatchBound::Fixed | BatchBound::Published | BatchBound::Memory)
            .then_some(self.n)
    }
}

/// What decided N.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchBound {
    /// The latency target: larger batches would exceed it.
    #[default]
    Slo,
    /// The most rows that the model may run.
    MaxBatch,
    /// Larger batches would keep the target, but bring no throughput.
    NoGain,
    /// The load: larger batches would keep requests waiting while another worker is free.
    RateMatched,
    /// Requests already wait longer than the target: throughput goes first.
    Backlog,
    /// Not even one row keeps the target: throughput goes first.
    SloInfeasible,
    /// The worker was started with a fixed N.
    Fixed,
    /// A fixed N was published for the queue.
    Published,
    /// Larger batches ran out of memory.
    Memory,
    /// A reason that only a newer worker knows, as announced.
    #[serde(untagged)]
    Other(String),
}

impl BatchBound {
    /// The text in announcements and explanations.
    pub fn code(&self) -> &str {
        match self {
            Self::Slo => "slo",
            Self::MaxBatch => "max_batch",
            Self::NoGain => "no_gain",
            Self::RateMatched => "rate_matched",
            Self::Backlog => "backlog",
            Self::SloInfeasible => "slo_infeasible",
            Self::Fixed => "fixed",
            Self::Published => "published",
            Self::Memory => "memory",
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
    /// Rows of requests in it.
    pub rows: u32,
    /// Rows added to reach a size that the engine runs.
    pub padding: u32,
    /// N when it was formed.
    pub limit: u32,
    /// How long the model ran, in milliseconds.
    pub ms: f64,
    /// Why it left when it did.
    pub release: String,
}

/// Why a batch left when it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Release {
    /// No more rows fit.
    Full = 1,
    /// Nobody else was waiting.
    Drained = 2,
    /// It had waited as long as it may for others.
    Linger = 3,
    /// The others that were waiting are of another shape.
    Shape = 4,
    /// One request larger than N; it runs alone.
    Oversize = 5,
    /// One request that was there when a worker died; it runs alone.
    Suspect = 6,
}

impl Release {
    /// Every reason, in the order of its wire code.
    pub const ALL: [Self; 6] =
        [Self::Full, Self::Drained, Self::Linger, Self::Shape, Self::Oversize, Self::Suspect];

    /// The bounded `reason` label, and what people are told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Drained => "drained",
            Self::Linger => "linger",
            Self::Shape => "shape",
            Self::Oversize => "oversize",
            Self::Suspect => "suspect",
        }
    }

    /// The code on the wire; never 0.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason with this wire code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|release| release.code() == code)
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
