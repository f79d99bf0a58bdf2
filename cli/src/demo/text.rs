//! The demo of a text encoder: sentences of many lengths, one by one, in batches of one length, and
//! padded to share batches.

use std::{sync::Arc, time::Duration};

use batchfleet_loadgen::{Length, LoadPlan, Report, Target, run, sentences};
use batchfleet_policy::BatchMode;
use batchfleet_service::Process;

use super::{DemoSettings, Measured, WARM_UP, gain, header, line, say, serve};

/// The model whose config declares padding, and the same model without a config.
pub(super) const PADDED: &str = "text";
const UNPADDED: &str = "text_unpadded";
/// The output with the embedding of a sentence.
const EMBEDDING: &str = "sentence_embedding";
/// Different sentences.
const SENTENCES: usize = 200;
/// Kinds of sentences, and the most tokens of each. A short one leaves a core of a processor partly
/// unused if it runs alone; a long one does not, so that batches gain little.
const KINDS: [(&str, usize); 2] = [
    ("Sentences of at most 16 tokens, as in a search:", 16),
    ("Sentences of any length:", usize::MAX),
];
/// Largest difference to the answer that a sentence gets alone, as a share of the largest number.
const TOLERANCE: f64 = 1e-3;
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the demo and prints the results.
pub(super) async fn show(demo: &DemoSettings, process: &Process) -> anyhow::Result<()> {
    say(&format!(
        "{} clients send sentences to the text encoder all-MiniLM-L6-v2, one per request, and compare \
         each answer with the one that the sentence got alone.\n",
        demo.users
    ));
    for (name, most) in KINDS {
        say(name);
        compare(demo, process, most).await?;
    }
    Ok(())
}

/// Runs sentences of at most `most` tokens in all ways, and prints the results.
async fn compare(demo: &DemoSettings, process: &Process, most: usize) -> anyhow::Result<()> {
    let visit = |model: &'static str| async move |target| embed(demo, (model, most), target).await;
    let one_by_one = serve(demo, (PADDED, BatchMode::Fixed(1)), process, visit(PADDED)).await?;
    let one_length = serve(demo, (UNPADDED, demo.models.batch), process, visit(UNPADDED)).await?;
    let padded = serve(demo, (PADDED, demo.models.batch), process, visit(PADDED)).await?;
    let all = [("one by one", &one_by_one), ("one length", &one_length), ("padded", &padded)];
    let lines: String = all.iter().map(|(name, measured)| line(name, measured)).collect();
    say(&(header() + &lines + &gain("Padded", &padded, &one_by_one) + "\n"));
    let is_flawless = |(_, Measured { report, .. }): &(&str, &Measured)| report.is_flawless();
    anyhow::ensure!(all.iter().all(is_flawless), "not all answers were right:\n{}", padded.report);
    Ok(())
}

/// Learns the answers to sentences of at most `most` tokens alone, then runs a closed loop with all
/// clients.
async fn embed(
    demo: &DemoSettings,
    (model, most): (&str, usize),
    target: Target,
) -> anyhow::Result<Report> {
    let mut some = sentences::read(&demo.sentences)?;
    some.retain(|sentence| sentence.len() <= most);
    some.truncate(SENTENCES);
    anyhow::ensure!(!some.is_empty(), "no sentence has at most {most} tokens");
    let mut workload = sentences::load(model, &[EMBEDDING], &some)?;
    workload.learn(&target, PATIENCE, TOLERANCE).await?;
    let plan = LoadPlan {
        users: demo.users,
        warm_up: WARM_UP,
        length: Length::Time(demo.duration),
        ..LoadPlan::new(target, Arc::new(workload), 0)
    };
    Ok(run(plan).await?)
}
