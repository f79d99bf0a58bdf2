//! `batchfleet policy --stdio`: our decisions for anybody's simulator, a JSON object a line in, one a
//! line out.

use std::{
    io::{self, BufRead, Write},
    time::Duration,
};

use batchfleet_policy::{
    ArrivalRate, BatchMode, BatchPolicy, CostModel, Counts, Demand, Observation, ScaleBound,
    ScalePolicy, Scaler, doomed,
};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

/// Settings of `batchfleet policy`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "In, as a worker is about to claim (the first line's \"done\" is the start-up
profile, sizes 1, 2, 4 .. nmax, three times each):
  {\"kind\":\"batch\",\"t\":s,\"q\":n,\"oldest_ms\":x,\"ages_ms\":[..],\"workers\":W,\"slo_ms\":x,
   \"nmax\":n,\"arrived\":total,\"done\":[[rows,ms],..]}
and, if the model pads batches to fixed sizes, \"sizes\":[..]
out: {\"n\":rows to claim,\"wait_ms\":0,\"drop\":how many of the oldest to refuse first}

In, every few seconds:
  {\"kind\":\"scale\",\"t\":s,\"queue\":n,\"inflight\":n,\"offered_total\":n,\"completed_total\":n,
   \"missed_total\":n,\"ready\":n,\"spec\":n,\"slo_ms\":x,\"cold_s\":x,\"min\":n,\"max\":n,
   \"nstar\":n,\"mu_rps\":x}
out: {\"replicas\":n}, or {} while nothing is known

A line that is neither is answered with {\"error\":\"..\"}."
)]
pub struct StdioSettings {
    /// Read questions from the standard input, write decisions to the standard output
    #[arg(long, required = true)]
    stdio: bool,
}

/// A question.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Question {
    Batch(Batch),
    Scale(Scale),
}

#[derive(Deserialize)]
struct Batch {
    t: f64,
    q: u32,
    #[serde(default)]
    ages_ms: Vec<f64>,
    workers: u32,
    slo_ms: f64,
    nmax: u32,
    arrived: u64,
    #[serde(default)]
    done: Vec<(u32, f64)>,
    /// Ours, and may be left out: the only sizes that the model runs.
    #[serde(default)]
    sizes: Vec<u32>,
}

#[derive(Deserialize)]
struct Scale {
    t: f64,
    queue: u64,
    offered_total: u64,
    missed_total: u64,
    ready: u32,
    spec: u32,
    slo_ms: f64,
    cold_s: f64,
    min: u32,
    max: u32,
    mu_rps: f64,
}

/// What is remembered from line to line.
#[derive(Default)]
struct Memory {
    cost: Option<CostModel>,
    rate: ArrivalRate,
    scaler: Scaler,
}

/// Answers each line of `questions` with one of `answers`, at once, until there are no more.
///
/// # Errors
///
/// When one of the two cannot be read or written.
pub fn answer(questions: impl BufRead, mut answers: impl Write) -> io::Result<()> {
    let mut memory = Memory::default();
    for line in questions.split(b'\n') {
        let answer = memory.answer(&line?).unwrap_or_else(|error| json!({ "error": error }));
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

/// [`answer`] on the standard input and output.
///
/// # Errors
///
/// As above.
pub fn policy(_: &StdioSettings) -> io::Result<()> {
    answer(io::stdin().lock(), io::stdout().lock())
}

impl Memory {
    fn answer(&mut self, line: &[u8]) -> Result<Value, String> {
        match serde_json::from_slice(line).map_err(|error| error.to_string())? {
            Question::Batch(question) => self.batch(&question),
            Question::Scale(question) => self.scale(&question),
        }
    }

    fn batch(&mut self, question: &Batch) -> Result<Value, String> {
        let done = question.done.iter().map(|&(rows, ms)| Ok((rows, millis(ms)?)));
        let done = done.collect::<Result<Vec<_>, String>>()?;
        match &mut self.cost {
            Some(cost) => done.iter().for_each(|&(rows, took)| cost.observe(rows, took)),
            None => self.cost = profile(done, &question.sizes),
        }
        let cost = self.cost.as_ref().ok_or("the first batch line must bring a profile in done")?;
        let slo = millis(question.slo_ms)?;
        self.rate.observe(seconds(question.t)?, question.arrived);
        let policy = BatchPolicy::new(BatchMode::Auto, question.nmax, slo);
        let demand = Demand {
            rate: self.rate.per_second(),
            waiting: question.q,
            ..Demand::unknown(question.workers)
        };
        let n = policy.choose(cost, &demand).n;
        let ages = question.ages_ms.iter().map(|&age| millis(age));
        let ages = ages.collect::<Result<Vec<_>, _>>()?;
        let left = ages.iter().map(|&age| slo.saturating_sub(age));
        let refused = doomed(cost, n, question.q, left);
        let oldest = ages.get(refused as usize).copied().unwrap_or_default();
        let left = question.q.saturating_sub(refused);
        // What is not there yet may still come until it is claimed.
        let n = if left > n { policy.take(cost, n, left, oldest) } else { n };
        Ok(json!({ "n": n, "wait_ms": 0, "drop": refused }))
    }

    fn scale(&mut self, question: &Scale) -> Result<Value, String> {
        let (at, policy) = (
            seconds(question.t)?,
            ScalePolicy::new(question.min, question.max, millis(question.slo_ms)?),
        );
        let seen = Observation {
            counts: Counts { at, offered: question.offered_total, missed: question.missed_total },
            waiting: question.queue,
            ready: question.ready,
            ordered: question.spec,
            cold_start: seconds(question.cold_s)?,
        };
        let decision = self.scaler.decide(&policy, at, &seen, |_| question.mu_rps);
        Ok(match decision.bound {
            ScaleBound::Unknown | ScaleBound::Stale => json!({}),
            _ => json!({ "replicas": decision.replicas }),
        })
    }
}

/// What a start-up profile tells of a model that runs any size, or only these.
fn profile(done: Vec<(u32, Duration)>, sizes: &[u32]) -> Option<CostModel> {
    let cost = CostModel::from_profile(&medians(done))?;
    if sizes.is_empty() {
        return Some(cost);
    }
    let fixed: Vec<_> = sizes.iter().map(|&size| (size, cost.latency(size))).collect();
    CostModel::from_profile(&fixed).map(CostModel::with_fixed_sizes)
}

/// The median time of each size.
fn medians(mut runs: Vec<(u32, Duration)>) -> Vec<(u32, Duration)> {
    runs.sort_unstable();
    runs.chunk_by(|(one, _), (other, _)| one == other).map(|same| same[same.len() / 2]).collect()
}

fn millis(ms: f64) -> Result<Duration, String> {
    seconds(ms / 1e3)
}

fn seconds(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{seconds} s is no duration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers to these lines.
    fn answers(lines: &[&str]) -> Vec<Value> {
        let mut told = Vec::new();
        answer(lines.join("\n").as_bytes(), &mut told).unwrap();
        let told = String::from_utf8(told).unwrap();
        told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    const PROFILE: &str = r#"{"kind":"batch","t":0,"q":0,"oldest_ms":0,"ages_ms":[],"workers":1,
        "slo_ms":100,"nmax":64,"arrived":0,"done":[[1,10],[1,10],[1,99],[8,24],[8,24],[8,24],
        [64,136],[64,136],[64,136]]}"#;

    #[test]
    fn a_batch_gets_n_and_how_many_cannot_be_in_time() {
        let profile = PROFILE.replace('\n', "");
        let late = r#"{"kind":"batch","t":1,"q":3,"oldest_ms":95,"ages_ms":[95,50,1],"workers":1,
            "slo_ms":100,"nmax":64,"arrived":3,"done":[]}"#
            .replace('\n', "");
        let answers = answers(&[&profile, &late]);
        // 97 % of the rate at N* = 19: 17 rows.
        assert_eq!(answers[0], json!({ "n": 17, "wait_ms": 0, "drop": 0 }));
        assert_eq!(answers[1], json!({ "n": 17, "wait_ms": 0, "drop": 1 }));
    }

    #[test]
    fn a_fleet_gets_workers_once_a_rate_is_known() {
        let line = |t: u32| {
            json!({
                "kind": "scale", "t": t, "queue": 0, "inflight": 0, "offered_total": 1000 * t,
                "completed_total": 0, "missed_total": 0, "ready": 1, "spec": 1, "slo_ms": 100,
                "cold_s": 60, "min": 1, "max": 24, "nstar": 19, "mu_rps": 100,
            })
            .to_string()
        };
        let answers = answers(&[&line(0), &line(5), &line(10)]);
        assert_eq!(answers, [json!({}), json!({ "replicas": 12 }), json!({ "replicas": 12 })]);
    }

    #[test]
    fn a_bad_line_is_told_so_and_the_next_is_answered() {
        let profile = PROFILE.replace('\n', "");
        let negative = profile.replace("\"slo_ms\":100", "\"slo_ms\":-1");
        let lines = ["", "{}", "[1", r#"{"kind":"x"}"#, &negative, "\u{fffd}", &profile];
        let answers = answers(&lines);
        assert_eq!(answers.len(), lines.len());
        assert!(answers[..6].iter().all(|answer| answer["error"].is_string()), "{answers:?}");
        assert_eq!(answers[6]["n"], 17);
    }
}
