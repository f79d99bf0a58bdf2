//! Settings of `batchfleet simulate`.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use batchfleet_policy::BatchMode;
use batchfleet_service::settings::duration;
use clap::{Args, ValueEnum};

use crate::{
    curve::Curve, error::SimulateError, lengths::Lengths, recorded, shards::Sharding,
    trace::ArrivalPattern, window::Mix,
};

/// The gateway's default for requests without a deadline of their own.
const GATEWAY_DEADLINE: Duration = Duration::from_secs(30);

/// Settings of the simulation.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  batchfleet simulate --curve 8+2b --load flash --rate 300 --peak 3000
  batchfleet simulate --curve 1=5.2,8=11,32=30,64=57 --load diurnal --rate 50 --peak 900 --svg day.svg
  batchfleet simulate --curve 60+10.7b --slo 1s --arrivals requests.csv --workers 4
  batchfleet simulate --curve 90+10b --slo 300ms --clients 100 --workers 1 --duration 5m
  batchfleet simulate --curve 2+0b --lengths lognormal:55,0.9,3-512 --position-ms 0.02 --rate 300

A worker logs the times of its batch sizes after its warm-up, and reports them while it runs as the
metric batchfleet_worker_batch_seconds.")]
pub struct SimulateSettings {
    /// Milliseconds that a batch of b rows takes: `8+2b`, or measured times `1=8.1,8=24,64=136`
    #[arg(long, value_name = "CURVE", required_unless_present = "goals")]
    curve: Option<Curve>,

    /// Fixed batch sizes of the engine; batches are padded to the next size [default: any size]
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    sizes: Vec<u32>,

    /// The lengths of rows: `lognormal:MEDIAN,SIGMA,LEAST-MOST`, `uniform:LEAST-MOST`, or a file with
    /// one length in each line, which requests have in turn [default: all rows have one length]
    #[arg(long, value_name = "LENGTHS", conflicts_with = "sizes")]
    pub(crate) lengths: Option<Lengths>,

    /// Milliseconds that each row takes longer for each of its positions
    #[arg(long, value_name = "MS", default_value_t = 0.0, value_parser = milliseconds, requires = "lengths")]
    position_ms: f64,

    /// Milliseconds that each row takes longer for each pair of its positions
    #[arg(long, value_name = "MS", default_value_t = 0.0, value_parser = milliseconds, requires = "lengths")]
    pair_ms: f64,

    /// Run only rows of one length together, as for a model that declares no padding
    #[arg(long, requires = "lengths")]
    no_padding: bool,

    /// The most rows per batch
    #[arg(long, value_name = "ROWS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) max_batch: u32,

    /// N: `auto`, or a number of rows
    #[arg(long, value_name = "ROWS", default_value = "auto")]
    pub(crate) batch: BatchMode,

    /// The latency target (p99)
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    pub(crate) slo: Duration,

    /// A batch that takes this time counts as hung; N stays far below it
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) max_batch_time: Duration,

    /// Requests that cannot be answered within this time are refused [default: --slo, or 30s with
    /// --clients]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    deadline: Option<Duration>,

    /// The arrival pattern
    #[arg(long, value_name = "NAME", default_value = "steady", conflicts_with = "arrivals")]
    load: Shape,

    /// A closed loop instead of a pattern: this number of clients, each of which sends its next
    /// request after the answer to the last
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["arrivals", "load", "rate"], requires = "workers")]
    pub(crate) clients: Option<u32>,

    /// Requests per second; in a pattern that changes, the low rate
    #[arg(long, value_name = "NUMBER", default_value_t = 100.0, value_parser = rate)]
    rate: f64,

    /// Requests per second at the high rate [default: 10 times --rate]
    #[arg(long, value_name = "NUMBER", value_parser = rate)]
    peak: Option<f64>,

    /// Requests per bulk
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    bulk: u32,

    /// A recorded load instead of a pattern: one line per request with its time in seconds, or
    /// lines `seconds,requests per second`, each valid until the next
    #[arg(long, value_name = "FILE")]
    arrivals: Option<PathBuf>,

    /// Simulated time [default: 1h, or the length of the recorded load]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,

    /// A constant number of workers [default: scaled to the load]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) workers: Option<u32>,

    /// Number of Redises over which the queue is spread
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "1",
        requires = "workers",
        conflicts_with = "clients"
    )]
    shards: NonZeroU32,

    /// Number of workers for which the queue uses one more Redis
    #[arg(long, value_name = "NUMBER", default_value = "8", requires = "shards")]
    workers_per_shard: NonZeroU32,

    /// The fewest workers
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) min_workers: u32,

    /// The most workers
    #[arg(long, value_name = "NUMBER", default_value_t = 24)]
    pub(crate) max_workers: u32,

    /// Order workers for the rate that a rising load will have once they have started
    #[arg(long, conflicts_with = "workers")]
    pub(crate) trend: bool,

    /// Time from the order of a worker to its first batch
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) cold_start: Duration,

    /// Seed of the random arrivals
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Write a chart of load, missed requests and workers to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,

    /// Measure the decisions on built-in loads and models; fail if a goal is missed
    #[arg(long)]
    pub(crate) goals: bool,
}

/// An arrival pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// A constant rate.
    Steady,
    /// Low and high rate at random, for 1/60 and 1/120 of the time on average.
    Bursts,
    /// A day: low at midnight, high at noon.
    Diurnal,
    /// Low, rising to high within 1/12 of the time, then high.
    Ramp,
    /// Low, with 1/6 of the time high in the middle.
    Flash,
    /// Low and high in turn, each for 1/12 of the time.
    OnOff,
    /// Many requests at the same instant.
    Bulk,
}

impl SimulateSettings {
    /// Returns the duration of batches.
    pub(crate) fn curve(&self) -> Result<Curve, SimulateError> {
        let curve = self.curve.clone().ok_or(SimulateError::NoCurve)?;
        let curve = curve.with_lengths(self.position_ms, self.pair_ms);
        if self.sizes.is_empty() {
            return Ok(curve);
        }
        if !self.sizes.is_sorted() || self.sizes[0] == 0 {
            return Err(SimulateError::Sizes);
        }
        Ok(curve.with_sizes(self.sizes.clone()))
    }

    /// Returns how rows of different lengths run together.
    pub(crate) const fn mix(&self) -> Mix {
        if self.no_padding { Mix::EqualLengths } else { Mix::Padded }
    }

    /// Returns how the fleet is spread over several Redises.
    pub(crate) const fn sharding(&self) -> Sharding {
        let Self { shards, workers_per_shard, seed, .. } = *self;
        Sharding { shards, workers_per_shard, even: false, seed }
    }

    /// Returns the time within which requests must be answered; later requests are refused.
    pub(crate) fn deadline(&self) -> Duration {
        let usual = if self.clients.is_some() { GATEWAY_DEADLINE } else { self.slo };
        self.deadline.unwrap_or(usual)
    }

    /// Returns the load and its length in seconds.
    pub(crate) fn load(&self) -> Result<(ArrivalPattern, f64), SimulateError> {
        let recorded = self.arrivals.as_deref().map(recorded::read).transpose()?;
        let length = recorded.as_ref().map_or(3600.0, |&(_, length)| length);
        let length = self.duration.map_or(length, |duration| duration.as_secs_f64());
        if length <= 0.0 {
            return Err(SimulateError::NoTime);
        }
        let load = recorded.map_or_else(|| self.named(length), |(load, _)| load);
        Ok((load, length))
    }

    fn named(&self, length: f64) -> ArrivalPattern {
        let (low, peak) = (self.rate, self.peak());
        match self.load {
            Shape::Steady => ArrivalPattern::steady(low),
            Shape::Bursts => ArrivalPattern::bursts(
                (low, length / 60.0),
                (peak, length / 120.0),
                length,
                self.seed,
            ),
            Shape::Diurnal => ArrivalPattern::diurnal(low, peak, length, length),
            Shape::Ramp => ArrivalPattern::ramp(low, peak, length / 3.0, length * 5.0 / 12.0),
            Shape::Flash => {
                ArrivalPattern::flash(low, peak, length * 5.0 / 12.0, length * 7.0 / 12.0)
            }
            Shape::OnOff => ArrivalPattern::on_off(low, peak, length / 12.0, length),
            Shape::Bulk => ArrivalPattern::Bulks { rate: low, size: self.bulk },
        }
    }

    /// Returns a description of the load.
    pub(crate) fn describe_load(&self) -> String {
        let (low, peak) = (self.rate, self.peak());
        if let Some(file) = &self.arrivals {
            return format!("recorded in {}", file.display());
        }
        if let Some(clients) = self.clients {
            return format!("{clients} clients in a closed loop");
        }
        match self.load {
            Shape::Steady => format!("constant {low}/s"),
            Shape::Bursts => format!("bursts: {low}/s and {peak}/s at random"),
            Shape::Diurnal => format!("a day: {low}/s to {peak}/s"),
            Shape::Ramp => format!("a ramp from {low}/s to {peak}/s"),
            Shape::Flash => format!("a flash crowd: {low}/s, then {peak}/s"),
            Shape::OnOff => format!("on and off: {low}/s and {peak}/s in turn"),
            Shape::Bulk => format!("bulks of {}: {low}/s", self.bulk),
        }
    }

    fn peak(&self) -> f64 {
        self.peak.unwrap_or(10.0 * self.rate)
    }
}

fn milliseconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected milliseconds".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "expected requests per second".to_owned())
}
