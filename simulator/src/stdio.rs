//! `batchfleet policy --stdio`: serves the decisions to other simulators. Each input line is a JSON
//! object, and is answered by one line of output.

use std::{
    io::{self, BufRead, Write},
    time::Duration,
};

use batchfleet_policy::{
    ArrivalRate, BatchMode, BatchPolicy, CostModel, LargestBatch, LengthCost, LengthSample,
    Observation, QueueLoad, RequestCounts, ScaleBound, ScalePolicy, Scaler, UsualRow, WaitingRows,
    doomed,
};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::window::{self, Mix, Window, whole};

/// Settings of `batchfleet policy`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Input when a worker is about to claim (\"done\": batches since the last line; in the
first line the start-up profile, sizes 1, 2, 4 .. nmax, three times each):
  {\"kind\":\"batch\",\"t\":s,\"q\":n,\"oldest_ms\":x,\"ages_ms\":[..],\"workers\":W,\"slo_ms\":x,
   \"nmax\":n,\"arrived\":total,\"done\":[[rows,ms],..]}
with \"sizes\":[..] if the model pads batches to fixed sizes.
Output: {\"n\":rows to claim,\"wait_ms\":0,\"drop\":number of oldest requests to refuse first}

If rows differ in length and may be padded, also the length of each waiting request, and of each batch
that is done (of all its rows, padded; the start-up profile has all sizes at several lengths):
  \"lengths\":[..],\"done\":[[rows,ms,length],..]
Output, also: \"run\":[which of the requests that are left run together; 0 is the oldest]

Input every few seconds:
  {\"kind\":\"scale\",\"t\":s,\"queue\":n,\"inflight\":n,\"offered_total\":n,\"completed_total\":n,
   \"missed_total\":n,\"ready\":n,\"spec\":n,\"slo_ms\":x,\"cold_s\":x,\"min\":n,\"max\":n,
   \"nstar\":n,\"mu_rps\":x}
Output: {\"replicas\":n}, or {} while unknown

Output for any other line: {\"error\":\"..\"}"
)]
pub struct StdioSettings {
    /// Read queries from standard input and write decisions to standard output
    #[arg(long, required = true)]
    stdio: bool,
}

/// A line of input.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Query {
    Batch(BatchQuery),
    Scale(ScaleQuery),
}

/// State of an idle worker and its queue.
#[derive(Deserialize)]
struct BatchQuery {
    /// Time in seconds, by any monotonic clock.
    t: f64,
    /// Number of waiting requests.
    q: u32,
    /// Time that each request has waited, in milliseconds, oldest request first.
    #[serde(default)]
    ages_ms: Vec<f64>,
    workers: u32,
    slo_ms: f64,
    nmax: u32,
    /// Counter of arrived requests.
    arrived: u64,
    /// The length of each request, oldest request first; empty if all rows have one length.
    #[serde(default)]
    lengths: Vec<u64>,
    /// Batches that ended since the last line.
    #[serde(default)]
    done: Vec<DoneBatch>,
    /// Fixed sizes of the model; optional.
    #[serde(default)]
    sizes: Vec<u32>,
}

/// A batch that has ended: (rows, milliseconds), or (rows, milliseconds, length).
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum DoneBatch {
    OneLength(u32, f64),
    OfLength(u32, f64, u64),
}

impl TryFrom<DoneBatch> for LengthSample {
    type Error = String;

    fn try_from(batch: DoneBatch) -> Result<Self, String> {
        let (rows, ms, length) = match batch {
            DoneBatch::OneLength(rows, ms) => (rows, ms, 1),
            DoneBatch::OfLength(rows, ms, length) => (rows, ms, length),
        };
        Ok(Self { rows, length, took: millis(ms)? })
    }
}

/// State of a fleet.
#[derive(Deserialize)]
struct ScaleQuery {
    /// Time in seconds, by any monotonic clock.
    t: f64,
    /// Number of waiting requests.
    queue: u64,
    offered_total: u64,
    missed_total: u64,
    ready: u32,
    /// Number of workers that serve or are starting.
    spec: u32,
    slo_ms: f64,
    /// Time between ordering a worker and its first batch, in seconds.
    cold_s: f64,
    min: u32,
    max: u32,
    /// Requests per second that one worker can do within the latency target.
    mu_rps: f64,
}

/// State that is kept between lines.
struct Session {
    /// L of units, and the units of rows.
    costs: Option<(CostModel, LengthCost)>,
    /// `None` until a request of a known length waits.
    usual: Option<UsualRow>,
    rate: ArrivalRate,
    scaler: Scaler,
}

/// Writes one decision to `output` for each line of `input`, until the input ends. The output is
/// flushed after each decision.
///
/// # Errors
///
/// If reading or writing fails.
pub fn serve(input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut session = Session::new();
    for line in input.split(b'\n') {
        let decision = session.decide(&line?).unwrap_or_else(|error| json!({ "error": error }));
        writeln!(output, "{decision}")?;
        output.flush()?;
    }
    Ok(())
}

/// Runs [`serve`] on standard input and output.
///
/// # Errors
///
/// If reading or writing fails.
pub fn policy(_: &StdioSettings) -> io::Result<()> {
    serve(io::stdin().lock(), io::stdout().lock())
}

impl Session {
    fn new() -> Self {
        Self { costs: None, usual: None, rate: ArrivalRate::default(), scaler: Scaler::default() }
    }

    fn decide(&mut self, line: &[u8]) -> Result<Value, String> {
        match serde_json::from_slice(line).map_err(|error| error.to_string())? {
            Query::Batch(query) => self.batch(&query),
            Query::Scale(query) => self.scale(&query),
        }
    }

    fn batch(&mut self, query: &BatchQuery) -> Result<Value, String> {
        self.learn(query)?;
        let (cost, lengths) =
            self.costs.as_ref().ok_or("the first batch line must bring a profile in done")?;
        let slo = millis(query.slo_ms)?;
        self.rate.observe(seconds(query.t)?, query.arrived);
        let mut usual = self.usual.unwrap_or_else(|| usual_of(*lengths, &query.lengths));
        let units = usual.units();
        let pads = !query.lengths.is_empty();
        let policy = BatchPolicy { pads, ..BatchPolicy::new(BatchMode::Auto, query.nmax, slo) };
        let load = QueueLoad {
            rate: self.rate.per_second().map(|rate| rate * units),
            waiting: whole(f64::from(query.q) * units) * u32::from(query.q > 0),
            ..QueueLoad::unknown(query.workers)
        };
        let n = policy.in_units(units).choose(cost, &load).n;
        let ages = query.ages_ms.iter().map(|&age| millis(age));
        let ages = ages.collect::<Result<Vec<_>, _>>()?;
        let left = |age: &Duration| slo.saturating_sub(*age);
        let refused = doomed(cost, n, load.waiting, ages.iter().map(left));
        let others = ages.iter().zip(&query.lengths).skip(refused as usize);
        let waits = others.map(|(age, &length)| WaitingRows { rows: 1, length, left: left(age) });
        let oldest = ages.get(refused as usize).copied().unwrap_or_default();
        let count = query.q.saturating_sub(refused);
        if !pads {
            // If fewer than N rows wait, more rows may arrive before the claim, so N is returned.
            let n = if count > n { policy.take(cost, n, count, oldest) } else { n };
            return Ok(json!({ "n": n, "wait_ms": 0, "drop": refused }));
        }
        let window = Window { lengths: *lengths, mix: Mix::Padded };
        let held = window.claim(f64::from(n), waits);
        let largest = LargestBatch { rows: query.nmax, units: f64::from(n) };
        let chosen = window.choose(cost, largest, &held, 0);
        let run = chosen.map_or(Vec::new(), |chosen| chosen.run);
        for &at in &run {
            usual.arrived(1, window.units(&held[at]));
        }
        self.usual = (!run.is_empty()).then_some(usual).or(self.usual);
        let n = whole((f64::from(n) / units).floor());
        Ok(json!({ "n": n, "wait_ms": 0, "drop": refused, "run": run }))
    }

    /// Learns from the batches that are done.
    fn learn(&mut self, query: &BatchQuery) -> Result<(), String> {
        if !query.lengths.is_empty() && query.lengths.len() != query.ages_ms.len() {
            return Err("lengths and ages_ms must be of the same requests".to_owned());
        }
        let done = query.done.iter().map(|&batch| batch.try_into());
        let done = done.collect::<Result<Vec<LengthSample>, String>>()?;
        let Some((cost, lengths)) = &mut self.costs else {
            self.costs = profile(&done, &query.sizes);
            return Ok(());
        };
        for batch in done {
            let units = f64::from(batch.rows) * lengths.units(batch.length);
            cost.observe(whole(units), batch.took);
        }
        Ok(())
    }

    fn scale(&mut self, query: &ScaleQuery) -> Result<Value, String> {
        let (at, policy) =
            (seconds(query.t)?, ScalePolicy::new(query.min, query.max, millis(query.slo_ms)?));
        let seen = Observation {
            counts: RequestCounts { at, offered: query.offered_total, missed: query.missed_total },
            waiting: query.queue,
            ready: query.ready,
            ordered: query.spec,
            cold_start: seconds(query.cold_s)?,
        };
        let decision = self.scaler.decide(&policy, at, &seen, |_| query.mu_rps);
        Ok(match decision.bound {
            ScaleBound::Unknown | ScaleBound::Stale => json!({}),
            _ => json!({ "replicas": decision.replicas }),
        })
    }
}

/// The usual row among rows of these lengths.
fn usual_of(lengths: LengthCost, waiting: &[u64]) -> UsualRow {
    let mut usual = UsualRow::new(waiting.first().map_or(1.0, |&length| lengths.units(length)));
    for &length in waiting {
        usual.arrived(1, lengths.units(length));
    }
    usual
}

/// Builds the cost model from a start-up profile. `sizes` are the fixed sizes; empty if the engine
/// runs any size.
fn profile(done: &[LengthSample], sizes: &[u32]) -> Option<(CostModel, LengthCost)> {
    let (cost, lengths) = window::costs(done)?;
    if sizes.is_empty() {
        return Some((cost, lengths));
    }
    let fixed: Vec<_> = sizes.iter().map(|&size| (size, cost.latency(size))).collect();
    Some((CostModel::from_profile(&fixed)?.with_fixed_sizes(), lengths))
}

fn millis(ms: f64) -> Result<Duration, String> {
    seconds(ms / 1e3)
}

fn seconds(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{seconds} s is not a duration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the decisions for these lines.
    fn decisions(lines: &[&str]) -> Vec<Value> {
        let mut output = Vec::new();
        serve(lines.join("\n").as_bytes(), &mut output).unwrap();
        let output = String::from_utf8(output).unwrap();
        output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    const PROFILE: &str = r#"{"kind":"batch","t":0,"q":0,"oldest_ms":0,"ages_ms":[],"workers":1,
        "slo_ms":100,"nmax":64,"arrived":0,"done":[[1,10],[1,10],[1,99],[8,24],[8,24],[8,24],
        [64,136],[64,136],[64,136]]}"#;

    #[test]
    fn a_batch_query_returns_n_and_the_number_of_doomed_requests() {
        let profile = PROFILE.replace('\n', "");
        let late = r#"{"kind":"batch","t":1,"q":3,"oldest_ms":95,"ages_ms":[95,50,1],"workers":1,
            "slo_ms":100,"nmax":64,"arrived":3,"done":[]}"#
            .replace('\n', "");
        let decisions = decisions(&[&profile, &late]);
        // 17 rows have 97 % of the rate at N* = 19.
        assert_eq!(decisions[0], json!({ "n": 17, "wait_ms": 0, "drop": 0 }));
        assert_eq!(decisions[1], json!({ "n": 17, "wait_ms": 0, "drop": 1 }));
    }

    #[test]
    fn a_batch_query_with_lengths_returns_the_requests_that_run_together() {
        // A batch takes 4 ms, and 0.02 ms for each position.
        let ms = |rows: u32, length: u32| 4.0 + 0.02 * f64::from(rows * length);
        let sizes =
            [1, 8, 64].into_iter().flat_map(|rows| [8, 64, 512].map(|length| (rows, length)));
        let done: Vec<_> =
            sizes.map(|(rows, length)| json!([rows, ms(rows, length), length])).collect();
        let line = |lengths: &[u32], ages: &[u32], done: &[Value]| {
            json!({
                "kind": "batch", "t": 1, "q": ages.len(), "oldest_ms": 0, "ages_ms": ages,
                "lengths": lengths, "workers": 1, "slo_ms": 100, "nmax": 64, "arrived": 0,
                "done": done,
            })
            .to_string()
        };
        let lines = [
            line(&[], &[], &done),
            line(&[16, 500, 17, 480, 20], &[5, 4, 3, 2, 1], &[json!([3, 5.2, 20])]),
            line(&[16, 500, 17, 480, 20], &[99, 4, 3, 2, 1], &[]),
            line(&[16, 500], &[5], &[]),
        ];
        let decisions = decisions(&lines.each_ref().map(String::as_str));
        assert_eq!(decisions[1]["run"], json!([0, 2, 4]));
        assert_eq!((&decisions[2]["drop"], &decisions[2]["run"]), (&json!(1), &json!([0, 2])));
        assert!(decisions[3]["error"].is_string(), "{decisions:?}");
    }

    #[test]
    fn a_scale_query_returns_workers_once_a_rate_is_known() {
        let line = |t: u32| {
            json!({
                "kind": "scale", "t": t, "queue": 0, "inflight": 0, "offered_total": 1000 * t,
                "completed_total": 0, "missed_total": 0, "ready": 1, "spec": 1, "slo_ms": 100,
                "cold_s": 60, "min": 1, "max": 24, "nstar": 19, "mu_rps": 100,
            })
            .to_string()
        };
        let decisions = decisions(&[&line(0), &line(5), &line(10)]);
        assert_eq!(decisions, [json!({}), json!({ "replicas": 12 }), json!({ "replicas": 12 })]);
    }

    #[test]
    fn a_malformed_line_returns_an_error_and_the_next_is_served() {
        let profile = PROFILE.replace('\n', "");
        let negative = profile.replace("\"slo_ms\":100", "\"slo_ms\":-1");
        let lines = ["", "{}", "[1", r#"{"kind":"x"}"#, &negative, "\u{fffd}", &profile];
        let decisions = decisions(&lines);
        assert_eq!(decisions.len(), lines.len());
        assert!(
            decisions[..6].iter().all(|decision| decision["error"].is_string()),
            "{decisions:?}"
        );
        assert_eq!(decisions[6]["n"], 17);
    }
}
