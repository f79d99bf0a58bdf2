//! The totals of an engine, from the metrics of its process.

use anyhow::Result;

use super::served::Served;

/// The histogram of the time between two batches of which the second was ready.
const GAP: &str = "batchfleet_worker_engine_gap_seconds";
/// The sum of the times of runs, their number, and their rows.
const TOTALS: [&str; 3] = [
    "batchfleet_worker_batch_seconds_sum",
    "batchfleet_worker_batch_seconds_count",
    "batchfleet_worker_batch_size_sum",
];

/// The engine's totals.
pub(super) struct EngineTotals {
    /// Seconds of all runs.
    pub(super) busy: f64,
    /// The number of runs.
    pub(super) batches: f64,
    /// The rows of all runs.
    pub(super) rows: f64,
    /// Upper bounds in seconds, and the batches up to each.
    pub(super) gaps: Vec<(f64, f64)>,
}

impl EngineTotals {
    /// Reads the totals since the start.
    pub(super) async fn read(served: &Served) -> Result<Self> {
        let text = served.metrics().await?;
        let value =
            |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        let sum = |name| text.lines().filter(|line| line.starts_with(name)).filter_map(value).sum();
        let [busy, batches, rows] = TOTALS.map(sum);
        let bucket = |line: &str| {
            let rest = line.strip_prefix(GAP)?.strip_prefix("_bucket")?;
            let bound = rest.split("le=\"").nth(1)?.split('"').next()?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, value(line)?))
        };
        Ok(Self { busy, batches, rows, gaps: text.lines().filter_map(bucket).collect() })
    }

    /// The totals since an earlier reading.
    pub(super) fn since(&self, before: &Self) -> Self {
        let earlier = before.gaps.iter().map(|gap| gap.1).chain(std::iter::repeat(0.0));
        let gaps = self.gaps.iter().zip(earlier);
        Self {
            busy: self.busy - before.busy,
            batches: self.batches - before.batches,
            rows: self.rows - before.rows,
            gaps: gaps.map(|(&(bound, now), then)| (bound, now - then)).collect(),
        }
    }
}

/// The quantile of a histogram of cumulative counts, linear within a bucket; NaN without counts.
pub(super) fn quantile(buckets: &[(f64, f64)], share: f64) -> f64 {
    let wanted = buckets.last().map_or(0.0, |last| last.1) * share;
    let (mut below, mut before) = (0.0, 0.0);
    for &(bound, upto) in buckets {
        if upto >= wanted && upto > before {
            return below + (bound - below) * (wanted - before) / (upto - before);
        }
        (below, before) = (bound, upto);
    }
    f64::NAN
}
