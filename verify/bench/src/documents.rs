//! Long documents to a text encoder on default settings, in one process and through Redis: no process
//! ends, no accepted request fails, and refusals are quick.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use batchfleet_loadgen::{Ending, Length, LoadPlan, Report, Sampled, run, sentences};
use batchfleet_testkit::{Fleet, FleetPlan, Program, get};

use crate::{
    files::Files,
    table::goal,
    text::{EMBEDDING, MODEL},
};

/// Tokens of a document.
const TOKENS: usize = 512;
/// Clients, and documents of each request.
const LOADS: [(usize, usize); 2] = [(64, 1), (8, 64)];
/// A load lasts at least so long: a watchdog ends a worker after ten seconds without progress.
const LEAST: Duration = Duration::from_secs(30);
const QUICK: Duration = Duration::from_millis(50);
/// Time for an answer, longer than any deadline of a gateway.
const PATIENCE: Duration = Duration::from_mins(1);

/// Prints what becomes of the requests.
pub(crate) async fn bench(files: &Files, lasts: Duration) -> Result<()> {
    let lasts = lasts.max(LEAST);
    let text = sentences::read(&files.sentences)?.concat();
    let document: Vec<i64> = text.into_iter().cycle().take(TOKENS).collect();
    println!("\nall-MiniLM-L6-v2, documents of {TOKENS} tokens, default settings, {lasts:?} each:");
    let alone = Served::in_one_process(files).await?;
    measure("in one process", &alone, &document, lasts).await?;
    drop(alone);
    let fleet = Served::over_redis(files).await?;
    measure("two gateways and two workers", &fleet, &document, lasts).await
}

async fn measure(place: &str, served: &Served, document: &[i64], lasts: Duration) -> Result<()> {
    for (users, rows) in LOADS {
        let requests = vec![sentences::request_of(MODEL, &[EMBEDDING], document, rows)?];
        let targets = served.targets.iter().map(|target| target.parse());
        let targets: Vec<_> = targets.collect::<Result<_, _>>()?;
        let first = targets.first().cloned().context("no gateway")?;
        let plan = LoadPlan {
            targets,
            users,
            length: Length::Time(lasts),
            timeout: PATIENCE,
            journal: true,
            ..LoadPlan::new(first, Arc::new(Sampled::of(requests)), 0)
        };
        let report = run(plan).await?;
        let what = format!("{place}, {users} clients of {rows} documents");
        println!("{what}: {} answered, {} refused", report.right, report.refusals());
        let ended = served.ended().await;
        goal(&format!("{what}: processes that ended"), &ended.to_string(), ended == 0, "0");
        let (failed, refusals) = endings(&report);
        let is_met = failed == 0 && report.right > 0;
        goal(&format!("{what}: accepted requests that failed"), &failed.to_string(), is_met, "0");
        let p99 = refusals.get(refusals.len() * 99 / 100).copied().unwrap_or_default();
        goal(&format!("{what}: refusals p99"), &format!("{p99:.1?}"), p99 <= QUICK, "<= 50 ms");
    }
    Ok(())
}

/// How many accepted requests failed, and the times of refusals, in ascending order.
fn endings(report: &Report) -> (u64, Vec<Duration>) {
    let (mut failed, mut refusals) = (report.wrong + report.failed, Vec::new());
    for entry in &report.journal {
        match &entry.ending {
            Ending::Refused(refusal) if [429, 503].contains(&refusal.status) => {
                refusals.push(entry.done.saturating_sub(entry.sent));
            }
            Ending::Refused(_) => failed += 1,
            _ => {}
        }
    }
    refusals.sort_unstable();
    (failed, refusals)
}

/// Programs that serve the encoder.
struct Served {
    targets: Vec<String>,
    alone: Option<Program>,
    fleet: Option<Fleet>,
}

impl Served {
    async fn in_one_process(files: &Files) -> Result<Self> {
        let local = "127.0.0.1:0";
        let serve = ["serve", "--listen", local, "--admin-listen", local, "--model-repository"];
        let program = Program::named("batchfleet")?.args(serve);
        let program = program.args([&files.text_models]).spawn()?;
        let admin = program.address("admin").await?;
        while get(&admin, "/readyz").await?.0 != 200 {
            tokio::task::yield_now().await;
        }
        let targets = vec![format!("http://{}", program.address("http").await?)];
        Ok(Self { targets, alone: Some(program), fleet: None })
    }

    async fn over_redis(files: &Files) -> Result<Self> {
        let serving = Some((files.text_models.as_path(), MODEL));
        let fleet =
            Fleet::start(FleetPlan { gateways: 2, workers: 2, serving, ..FleetPlan::default() });
        let fleet = fleet.await?;
        Ok(Self { targets: fleet.targets().to_vec(), alone: None, fleet: Some(fleet) })
    }

    /// How many of the programs do not answer on their admin port.
    async fn ended(&self) -> usize {
        let fleet = self.fleet.iter();
        let fleet = fleet.flat_map(|fleet| fleet.gateways.iter().chain(&fleet.workers));
        let mut ended = 0;
        for program in self.alone.iter().chain(fleet) {
            let answers = match program.address("admin").await {
                Ok(admin) => get(&admin, "/livez").await.is_ok_and(|(status, _)| status == 200),
                Err(_) => false,
            };
            ended += usize::from(!answers);
        }
        ended
    }
}
