//! The CPU cost of a sentence in a text encoder, relative to the best padding that a program without a
//! server could choose, and the differences of its answers from those that it gets alone.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use batchfleet_loadgen::{HttpAnswer, Pace, Prepared, Target, Workload, infer::outputs, sentences};
use batchfleet_testkit::FleetPlan;
use parking_lot::Mutex;

use crate::{
    bare::example,
    files::Files,
    rig::{BenchLoad, Rig},
    table::{goal, heading, line, median},
};

pub(crate) const MODEL: &str = "text";
pub(crate) const EMBEDDING: &str = "sentence_embedding";
const CALLERS: usize = 64;
const ROUNDS: usize = 3;
/// The first sentences of the file, which callers repeat.
const SENTENCES: usize = 320;
/// Sentences of any length, and of at most 32 tokens.
const LENGTHS: [(&str, usize); 2] = [("any", usize::MAX), ("at most 32", 32)];
/// Time for the answer to a sentence alone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints the cost for sentences of both lengths.
pub(crate) async fn bench(files: &Files, lasts: Duration) -> Result<()> {
    let plan = FleetPlan {
        serving: Some((&files.text_models, MODEL)),
        worker_flags: &["--intra-op-threads", "1"],
        ..FleetPlan::default()
    };
    let rig = Rig::start("auto", plan).await?;
    heading("all-MiniLM-L6-v2 through Redis, 64 callers");
    for (name, most) in LENGTHS {
        measure(&rig, files, lasts, (name, most)).await?;
    }
    Ok(())
}

async fn measure(
    rig: &Rig,
    files: &Files,
    lasts: Duration,
    (name, most): (&str, usize),
) -> Result<()> {
    let texts = Arc::new(Texts::learn(&rig.target()?, &files.sentences, most).await?);
    let (mut costs, mut batches, mut ways) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let load = BenchLoad { workload: texts.clone(), users: CALLERS, pace: Pace::Closed, lasts };
        let measured = rig.measure(&load).await?;
        line(&format!("sentences of {name} tokens"), &measured);
        ensure!(measured.errors() == 0, "not all answers are right: {}", measured.report);
        let alone = padded(files, most)?;
        let (way, best) = alone.iter().min_by(|a, b| a.1.total_cmp(&b.1)).context("no way")?;
        costs.push((measured.cpu.sum() / best, measured.cpu.worker / best));
        batches.push(measured.batch);
        ways.push(format!("{way} {best:.0} µs"));
        let all: Vec<String> = alone.iter().map(|(way, cpu)| format!("{way} {cpu:.0}")).collect();
        println!("| the model alone, µs: {} | | | | | | | | | | | |", all.join(", "));
    }
    println!();
    let (all, worker): (Vec<f64>, Vec<f64>) = costs.into_iter().unzip();
    let (cost, batch) = (median(all), median(batches));
    let what = format!("{name} tokens: CPU of a sentence over the best padding alone");
    let ways = ways.join(", ");
    let figure = format!("{cost:.2}, worker alone {:.2} ({ways})", median(worker));
    goal(&what, &figure, cost <= 1.1, "<= 1.10");
    goal(&format!("{name} tokens: mean batch"), &format!("{batch:.1}"), batch >= 5.0, ">= 5");
    let (cosine, difference) = *texts.worst.lock();
    let what = format!("{name} tokens: least cosine to the answer alone");
    let figure = format!("{cosine:.7}, largest difference {difference:.1e}");
    goal(&what, &figure, cosine >= 0.9999, ">= 0.9999");
    println!();
    Ok(())
}

/// CPU microseconds of a sentence by the way of padding, without a server.
fn padded(files: &Files, most: usize) -> Result<Vec<(String, f64)>> {
    let model = files.text_models.join(MODEL).join("1/model.onnx");
    let sentences = files.sentences.to_str().context("the path of the sentences is not UTF-8")?;
    let numbers = [CALLERS, SENTENCES, most].map(|number| number.to_string());
    let [waiting, count, most] = &numbers;
    let printed = example("padded", files, &model, &[sentences, waiting, count, most])?;
    let parse = |line: &str| {
        let [way, cpu, _rows] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
        Some((way.to_owned(), cpu.parse().ok()?))
    };
    let ways: Option<Vec<_>> = printed.lines().map(parse).collect();
    ways.with_context(|| format!("padded printed {printed:?}"))
}

/// Sentences, and the answer to each alone.
struct Texts {
    requests: Vec<Prepared>,
    alone: Vec<Vec<f32>>,
    /// The least cosine to the answer alone, and the largest difference of a number.
    worst: Mutex<(f64, f64)>,
}

impl Texts {
    async fn learn(target: &Target, file: &Path, most: usize) -> Result<Self> {
        let all = sentences::read(file)?;
        let some = all.iter().filter(|sentence| sentence.len() <= most).take(SENTENCES);
        let requests = some.map(|sentence| sentences::request(MODEL, &[EMBEDDING], sentence));
        let requests: Vec<Prepared> = requests.collect::<Result<_, _>>()?;
        ensure!(!requests.is_empty(), "no sentence has at most {most} tokens");
        let mut alone = Vec::with_capacity(requests.len());
        for request in &requests {
            let (status, answer) = target.ask(request.clone(), PATIENCE).await?;
            ensure!(status == 200, "a sentence alone got {status}");
            alone.push(embedding(&answer).map_err(anyhow::Error::msg)?);
        }
        Ok(Self { requests, alone, worst: Mutex::new((1.0, 0.0)) })
    }

    fn at(&self, index: u64) -> usize {
        usize::try_from(index % self.requests.len() as u64).unwrap_or_default()
    }
}

impl Workload for Texts {
    fn request(&self, index: u64) -> Prepared {
        self.requests[self.at(index)].clone()
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        let (ours, theirs) = (embedding(answer)?, &self.alone[self.at(index)]);
        if ours.len() != theirs.len() {
            return Err(format!("{} numbers instead of {}", ours.len(), theirs.len()));
        }
        let pairs = || ours.iter().zip(theirs).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        let norm = |values: &[f32]| {
            values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
        };
        let product: f64 = pairs().map(|(a, b)| a * b).sum();
        let cosine = product / (norm(&ours) * norm(theirs));
        let difference = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let mut worst = self.worst.lock();
        *worst = (worst.0.min(cosine), worst.1.max(difference));
        if cosine >= 0.9999 { Ok(()) } else { Err(format!("cosine {cosine} to the answer alone")) }
    }
}

fn embedding(answer: &HttpAnswer) -> Result<Vec<f32>, String> {
    outputs(answer)?.first().ok_or("no output")?.f32s()
}
