//! The rate of requests of unequal length with and without padding, relative to requests of one length.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use batchfleet_loadgen::{Echo, HttpAnswer, Pace, Prepared, Workload, infer::Encoding};
use batchfleet_testkit::{FleetPlan, named_echo_model};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use crate::{
    rig::{BenchLoad, Measurement, Rig},
    table::{goal, heading, line, median},
};

const CALLERS: usize = 64;
const ROUNDS: usize = 3;
/// Milliseconds of a batch, and of each of its rows, whatever their length.
const TIMES: [(&str, &str); 2] = [("batch_ms", "4"), ("row_ms", "0.05")];
const PADDING: [(&str, &str); 2] = [("pad", "INPUT0:1=46"), ("cut", "OUTPUT0:1")];
/// Lengths of texts in bytes: lognormal with this median and σ, within the bounds.
const MEDIAN: f64 = 55.0;
const SIGMA: f64 = 0.9;
const BOUNDS: (f64, f64) = (24.0, 512.0);
const TEXTS: usize = 512;
const SEED: u64 = 1;
/// What was served per second of the same lengths before requests could be padded, measured on another
/// day.
const BEFORE: f64 = 392.0;

/// Prints the rates with one gateway and worker, and with two of each.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    let folder = TempDir::new()?;
    named_echo_model(folder.path(), "plain", 256, &TIMES)?;
    named_echo_model(folder.path(), "padded", 256, &[TIMES, PADDING].concat())?;
    for (gateways, workers) in [(1, 1), (2, 2)] {
        let plan = FleetPlan {
            gateways,
            workers,
            serving: Some((folder.path(), "padded")),
            worker_flags: &["--model", "plain"],
            ..FleetPlan::default()
        };
        let name = format!("gateways: {gateways}, workers: {workers}");
        compare(&Rig::start(&name, plan).await?, lasts).await?;
    }
    Ok(())
}

async fn compare(rig: &Rig, lasts: Duration) -> Result<()> {
    let measure = async |what: &str, model, lengths: &[u64]| -> Result<Measurement> {
        let workload = Arc::new(Texts::new(model, lengths)?);
        let load = BenchLoad { workload, users: CALLERS, pace: Pace::Closed, lasts };
        let measured = rig.measure(&load).await?;
        line(what, &measured);
        Ok(measured)
    };
    heading(&format!("texts through Redis, {}, {CALLERS} callers", rig.name));
    let lengths = lengths();
    let (mut rates, mut gains, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let one = measure("one length", "padded", &[64]).await?.report.rate();
        let plain = measure("unequal, not padded", "plain", &lengths).await?.report.rate();
        let padded = measure("unequal, padded", "padded", &lengths).await?.report.rate();
        rates.push(padded);
        gains.push(padded / plain);
        shares.push(padded / one);
    }
    let (rate, gain, share) = (median(rates), median(gains), median(shares));
    println!();
    goal("padded over one length", &format!("{:.0} %", share * 100.0), share >= 0.6, ">= 60 %");
    let figure = format!("{:.1} ({rate:.0} answers/s)", rate / BEFORE);
    let what = format!("padded over the {BEFORE:.0} answers/s before padding");
    goal(&what, &figure, rate >= 8.0 * BEFORE, ">= 8");
    println!("padded over not padded, in this run: {gain:.1}");
    Ok(())
}

fn lengths() -> Vec<u64> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut length = || {
        // The sum of twelve uniform numbers is nearly normal, with a variance of 1.
        let normal = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
        let length = (MEDIAN * (SIGMA * normal).exp()).clamp(BOUNDS.0, BOUNDS.1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "24 to 512")]
        let whole = length as u64;
        whole
    };
    (0..TEXTS).map(|_| length()).collect()
}

/// Echoes of texts, one text in each request.
struct Texts(Vec<Echo>);

impl Texts {
    fn new(model: &str, lengths: &[u64]) -> Result<Self> {
        let echo = |&length: &u64| Echo::new(model, "INPUT0", 1, length, Encoding::Binary);
        Ok(Self(lengths.iter().map(echo).collect::<Result<_, _>>()?))
    }

    fn of(&self, index: u64) -> &Echo {
        &self.0[usize::try_from(index % self.0.len() as u64).unwrap_or_default()]
    }
}

impl Workload for Texts {
    fn request(&self, index: u64) -> Prepared {
        self.of(index).request(index)
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        self.of(index).check(index, answer)
    }
}
