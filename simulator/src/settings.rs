//! Settings of `batchfleet simulate`.

use std::{path::PathBuf, time::Duration};

use batchfleet_policy::BatchMode;
use batchfleet_service::settings::duration;
use clap::{Args, ValueEnum};

use crate::{curve::Curve, error::SimulateError, recorded, trace::Load};

/// Settings of the simulation.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  batchfleet simulate --curve 8+2b --load flash --rate 300 --peak 3000
  batchfleet simulate --curve 1=5.2,8=11,32=30,64=57 --load diurnal --rate 50 --peak 900 --svg day.svg
  batchfleet simulate --curve 60+10.7b --slo 1s --arrivals requests.csv --workers 4

A worker logs the times of its batch sizes when it warms up, and /metrics has them as it runs:
batchfleet_worker_batch_seconds.")]
pub struct SimulateSettings {
    /// What a batch of b rows takes, in milliseconds: `8+2b`, or measured times `1=8.1,8=24,64=136`
    #[arg(long, value_name = "CURVE", required_unless_present = "goals")]
    curve: Option<Curve>,

    /// The only batch sizes that the engine runs; smaller batches are padded [default: any]
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    sizes: Vec<u32>,

    /// The most rows of one batch
    #[arg(long, value_name = "ROWS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) max_batch: u32,

    /// N: `auto`, or a number
    #[arg(long, value_name = "ROWS", default_value = "auto")]
    pub(crate) batch: BatchMode,

    /// The latency target
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    pub(crate) slo: Duration,

    /// Requests that cannot be answered within this time are refused [default: --slo]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    deadline: Option<Duration>,

    /// How requests come
    #[arg(long, value_name = "NAME", default_value = "steady", conflicts_with = "arrivals")]
    load: Shape,

    /// Requests per second; where the load changes, the low rate
    #[arg(long, value_name = "NUMBER", default_value_t = 100.0, value_parser = rate)]
    rate: f64,

    /// Requests per second where the load is high [default: ten times --rate]
    #[arg(long, value_name = "NUMBER", value_parser = rate)]
    peak: Option<f64>,

    /// Requests of one bulk
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    bulk: u32,

    /// A recorded load instead: a line per request with its time in seconds, or lines
    /// `seconds,requests per second`, each until the next
    #[arg(long, value_name = "FILE")]
    arrivals: Option<PathBuf>,

    /// How long [default: 1h, or what was recorded]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,

    /// So many workers all the time [default: as many as the load needs]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) workers: Option<u32>,

    /// The fewest workers
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) min_workers: u32,

    /// The most workers
    #[arg(long, value_name = "NUMBER", default_value_t = 24)]
    pub(crate) max_workers: u32,

    /// Order workers for where a rising load will be once they have started
    #[arg(long, conflicts_with = "workers")]
    pub(crate) trend: bool,

    /// From the order of a worker to its first batch
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) cold_start: Duration,

    /// Another number is another day with the same load
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Draw the load, the workers and what was missed into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,

    /// Check what the decisions must reach, on loads and models of their own
    #[arg(long)]
    pub(crate) goals: bool,
}

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// The same rate all the time.
    Steady,
    /// Low and high by chance, for 1/60 and 1/120 of the time on average.
    Bursts,
    /// A day: low at night, high at noon.
    Diurnal,
    /// Low, then from low to high within 1/12 of the time, and it stays.
    Ramp,
    /// Low, but high for 1/6 of the time in the middle.
    Flash,
    /// Low and high in turn, each for 1/12 of the time.
    OnOff,
    /// Many requests at the same instant.
    Bulk,
}

impl SimulateSettings {
    /// The model.
    pub(crate) fn curve(&self) -> Result<Curve, SimulateError> {
        let curve = self.curve.clone().ok_or(SimulateError::NoCurve)?;
        if self.sizes.is_empty() {
            return Ok(curve);
        }
        if !self.sizes.is_sorted() || self.sizes[0] == 0 {
            return Err(SimulateError::Sizes);
        }
        Ok(curve.with_sizes(self.sizes.clone()))
    }

    /// How long a request may take before it is refused.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline.unwrap_or(self.slo)
    }

    /// The load, and how long it is.
    pub(crate) fn load(&self) -> Result<(Load, f64), SimulateError> {
        let recorded = self.arrivals.as_deref().map(recorded::read).transpose()?;
        let length = recorded.as_ref().map_or(3600.0, |&(_, length)| length);
        let length = self.duration.map_or(length, |duration| duration.as_secs_f64());
        if length <= 0.0 {
            return Err(SimulateError::NoTime);
        }
        let load = recorded.map_or_else(|| self.named(length), |(load, _)| load);
        Ok((load, length))
    }

    fn named(&self, length: f64) -> Load {
        let (low, peak) = (self.rate, self.peak());
        match self.load {
            Shape::Steady => Load::steady(low),
            Shape::Bursts => {
                Load::bursts((low, length / 60.0), (peak, length / 120.0), length, self.seed)
            }
            Shape::Diurnal => Load::diurnal(low, peak, length, length),
            Shape::Ramp => Load::ramp(low, peak, length / 3.0, length * 5.0 / 12.0),
            Shape::Flash => Load::flash(low, peak, length * 5.0 / 12.0, length * 7.0 / 12.0),
            Shape::OnOff => Load::on_off(low, peak, length / 12.0, length),
            Shape::Bulk => Load::Bulks { rate: low, size: self.bulk },
        }
    }

    /// The load in words.
    pub(crate) fn load_in_words(&self) -> String {
        let (low, peak) = (self.rate, self.peak());
        if let Some(file) = &self.arrivals {
            return format!("recorded in {}", file.display());
        }
        match self.load {
            Shape::Steady => format!("{low}/s all the time"),
            Shape::Bursts => format!("bursts: {low}/s and {peak}/s by chance"),
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

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "expected requests per second".to_owned())
}
