//! Whether a worker announces what it then serves, and whether it chooses a good N, with a text encoder
//! and texts of three kinds of lengths.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use batchfleet_loadgen::{Pace, Workload, sentences};
use batchfleet_testkit::FleetPlan;

use crate::{
    files::Files,
    rig::{BenchLoad, Rig},
    table::{goal, heading, line, median},
    text::{EMBEDDING, MODEL},
};

const CALLERS: usize = 64;
const ROUNDS: usize = 3;
/// In the first round, the measured worker serves so much longer: the length of its usual row, in which
/// it announces its capacity, is an average over 200 rows.
const SETTLES: u32 = 5;
/// Documents are measured so many times longer than sentences: each takes many times longer, and a rate
/// of a hundred answers says little.
const DOCUMENTS_LAST: u32 = 5;
/// How N is chosen: by the worker, or one of the sizes to compare its choice with.
const BATCHES: [&str; 5] = ["auto", "4", "8", "16", "32"];
const CAPACITY: &str = "batchfleet_worker_capacity_rows_per_second";
/// Different texts.
const TEXTS: usize = 320;
/// The tokens of a short text, at most.
const SHORT: usize = 16;
/// The sentences of a document, and its tokens, at most.
const TOGETHER: usize = 8;
const LONGEST: usize = 512;

/// Prints the announced and the served rate, and the rates of fixed sizes.
pub(crate) async fn bench(files: &Files, lasts: Duration) -> Result<()> {
    let mut rigs = Vec::new();
    for batch in BATCHES {
        let plan = FleetPlan {
            serving: Some((&files.text_models, MODEL)),
            worker_flags: &["--intra-op-threads", "1", "--batch", batch],
            ..FleetPlan::default()
        };
        rigs.push(Rig::start(batch, plan).await?);
    }
    heading("all-MiniLM-L6-v2 through Redis, 64 callers");
    let sentences = sentences::read(&files.sentences)?;
    for (name, texts, longer) in [
        ("short sentences", short(&sentences), 1),
        ("sentences", sentences[..TEXTS.min(sentences.len())].to_vec(), 1),
        ("documents", documents(&sentences), DOCUMENTS_LAST),
    ] {
        let workload = Arc::new(sentences::load(MODEL, &[EMBEDDING], &texts)?);
        compare(&rigs, name, workload, lasts * longer).await?;
    }
    Ok(())
}

/// Sentences of few tokens.
fn short(sentences: &[Vec<i64>]) -> Vec<Vec<i64>> {
    let short = sentences.iter().filter(|sentence| sentence.len() <= SHORT);
    short.take(TEXTS).cloned().collect()
}

/// Texts of several sentences.
fn documents(sentences: &[Vec<i64>]) -> Vec<Vec<i64>> {
    let document = |sentences: &[Vec<i64>]| sentences.concat().into_iter().take(LONGEST).collect();
    sentences.chunks(TOGETHER).map(document).collect()
}

async fn compare(
    rigs: &[Rig],
    name: &str,
    workload: Arc<dyn Workload>,
    lasts: Duration,
) -> Result<()> {
    let load = |lasts| {
        let workload = Arc::clone(&workload);
        BenchLoad { workload, users: CALLERS, pace: Pace::Closed, lasts }
    };
    let (mut exact, mut rates) = (Vec::new(), vec![Vec::new(); rigs.len()]);
    for round in 0..=ROUNDS {
        for (rig, rates) in rigs.iter().zip(&mut rates) {
            let is_auto = rig.name == BATCHES[0];
            let settles = round == 0 && is_auto;
            let lasts = if settles { lasts * SETTLES } else { lasts };
            let measured = rig.measure(&load(lasts)).await?;
            line(&format!("{name}, N = {}", rig.name), &measured);
            ensure!(measured.errors() == 0, "not all requests succeed: {}", measured.report);
            // In the first round, costs and N settle.
            if round > 0 {
                let rate = measured.report.rate();
                rates.push(rate);
                if is_auto {
                    exact.push(rig.worker_metric(CAPACITY).await? / rate);
                }
            }
        }
    }
    println!();
    let exact = median(exact);
    let what = format!("{name}: announced over served rate");
    let figure = format!("{exact:.2}");
    goal(&what, &figure, (0.85..=1.15).contains(&exact), "0.85 to 1.15");
    let mut rates = rates.into_iter().map(median);
    let auto = rates.next().context("the rate with the chosen N")?;
    let good = auto / rates.fold(0.0, f64::max);
    let what = format!("{name}: rate over that of the best fixed N");
    goal(&what, &format!("{good:.2}"), good >= 0.9, ">= 0.9");
    println!();
    Ok(())
}
