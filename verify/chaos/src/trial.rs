//! A trial of one fault: a fleet, the loads on it, and the checks that every trial must pass.

use std::{
    fs,
    pin::Pin,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    control::Queues,
    findings::Findings,
    fleet::{ChaosFleet, ChaosPlan},
    journal::{self, LoadJournal, latency, quantile},
    load::{LoadShape, RunningLoad},
    metrics::Scrape,
    protocol::Protocol,
    runs::Runs,
};

/// N of every worker.
pub(crate) const BATCH: u32 = 8;
/// The fixed part of a batch's time, in milliseconds.
pub(crate) const BATCH_MS: f64 = 20.0;
/// The time that each row adds to a batch, in milliseconds.
pub(crate) const ROW_MS: f64 = 0.5;
/// How often a trial polls for an expected event.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// How often a trial polls for the start of a batch: a small part of a batch's time.
const MOMENT: Duration = Duration::from_millis(1);
/// How soon after the last load the queues must be empty, with no request in flight.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// The baseline excludes requests due before this time, when users were still connecting.
const UNSETTLED: Duration = Duration::from_millis(500);

/// The size of the fleet, the loads, and the length of faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) gateways: usize,
    pub(crate) workers: usize,
    /// Users of the closed loop.
    pub(crate) clients: usize,
    /// How long a load runs before the fault.
    pub(crate) warm_up: Duration,
    /// How long a fault lasts, unless `FAULTS` gives a time.
    pub(crate) lasts: Duration,
    /// Seed of all random choices.
    pub(crate) seed: u64,
    /// Whether the programs may be slow: a debug build on a busy machine.
    pub(crate) slow: bool,
    /// The protocol of the loads.
    pub(crate) protocol: Protocol,
}

impl Scale {
    /// The full tier, run by `make chaos`.
    pub(crate) fn whole(lasts: Duration, seed: u64) -> Self {
        let warm_up = Duration::from_secs(5);
        let (slow, protocol) = (false, Protocol::Http);
        Self { gateways: 2, workers: 4, clients: 1000, warm_up, lasts, seed, slow, protocol }
    }

    /// The short tier, run by `make test` on a debug build: speeds are recorded, but not judged.
    pub(crate) fn short(lasts: Duration, seed: u64) -> Self {
        let warm_up = Duration::from_secs(3);
        let (slow, protocol) = (true, Protocol::Http);
        Self { gateways: 2, workers: 2, clients: 200, warm_up, lasts, seed, slow, protocol }
    }

    /// The fleet of most faults.
    pub(crate) fn plan(&self) -> ChaosPlan {
        ChaosPlan {
            protocol: self.protocol,
            gateways: self.gateways,
            workers: self.workers,
            worker_flags: ["--batch".to_owned(), BATCH.to_string()].into(),
            parameters: [("batch_ms", BATCH_MS.to_string()), ("row_ms", ROW_MS.to_string())].into(),
            ..ChaosPlan::default()
        }
    }

    /// The capacity of `workers` in requests per second.
    pub(crate) fn capacity(workers: usize) -> f64 {
        Self::capacity_of(workers, BATCH_MS + ROW_MS * f64::from(BATCH))
    }

    /// The capacity of `workers` in requests per second, if a full batch takes `batch_ms`
    /// milliseconds.
    pub(crate) fn capacity_of(workers: usize, batch_ms: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a few workers")]
        let workers = workers as f64;
        workers * f64::from(BATCH) / batch_ms * 1e3
    }

    /// L1: a closed loop.
    pub(crate) fn closed(&self) -> LoadShape {
        LoadShape::closed(self.clients)
    }

    /// L2: an open loop at 70 % of the workers' capacity.
    pub(crate) fn open(&self) -> LoadShape {
        self.open_at(0.7)
    }

    /// An open loop at this share of the workers' capacity.
    pub(crate) fn open_at(&self, share: f64) -> LoadShape {
        LoadShape::open(share * Self::capacity(self.workers), 2 * self.clients)
    }
}

/// The future of a trial.
pub(crate) type RunningTrial = Pin<Box<dyn Future<Output = Result<Findings>>>>;

/// A fleet, and the findings about it.
pub(crate) struct Trial {
    pub(crate) scale: Scale,
    pub(crate) fleet: ChaosFleet,
    pub(crate) random: StdRng,
    pub(crate) findings: Findings,
}

impl Trial {
    /// Starts a fleet.
    pub(crate) async fn start(scale: Scale, plan: &ChaosPlan) -> Result<Self> {
        let fleet = ChaosFleet::start(plan).await?;
        let random = StdRng::seed_from_u64(scale.seed);
        let findings = if scale.slow { Findings::of_a_slow_machine() } else { Findings::default() };
        Ok(Self { scale, fleet, random, findings })
    }

    /// Starts the fleet of most faults.
    pub(crate) async fn usual(scale: Scale) -> Result<Self> {
        Self::start(scale, &scale.plan()).await
    }

    /// Starts a load on all gateways, and waits for the warm-up.
    pub(crate) async fn load(&self, shape: LoadShape) -> Result<RunningLoad> {
        let load = shape.start(self.fleet.targets())?;
        sleep(self.scale.warm_up).await;
        Ok(load)
    }

    /// The end of a fault that begins now.
    pub(crate) fn until(&self) -> Instant {
        Instant::now() + self.scale.lasts
    }

    /// Ends a load. Records the promise that every request was answered, and none with the answer
    /// to another.
    pub(crate) async fn stop(&mut self, load: RunningLoad) -> Result<LoadJournal> {
        let journal = self.stop_cut(load).await?;
        self.findings.none("lost", journal.report.failed);
        let troubles = journal.report.troubles.iter().filter(|text| text.starts_with("failed"));
        for trouble in troubles.take(1) {
            self.findings.note(trouble);
        }
        Ok(journal)
    }

    /// Ends a load whose connections the fault itself may cut, so that some requests stay
    /// unanswered.
    pub(crate) async fn stop_cut(&mut self, load: RunningLoad) -> Result<LoadJournal> {
        let journal = load.stop().await?;
        self.findings.note(format!("{} sent", journal.report.sent));
        for (refusal, count) in journal.refusals() {
            self.findings.note(format!("{count} x {refusal}"));
        }
        self.findings.none("wrong", journal.report.wrong);
        self.findings.check(journal.report.right > 0, format!("{} right", journal.report.right));
        Ok(journal)
    }

    /// Records the promise that every request was answered 200.
    pub(crate) fn all_right(&mut self, journal: &LoadJournal) {
        self.findings.none("not answered 200:", journal.report.refusals());
    }

    /// The p99 latency before the fault began.
    pub(crate) fn baseline(&mut self, journal: &LoadJournal) -> Duration {
        let before = journal.due_in(UNSETTLED..self.scale.warm_up);
        let p99 = quantile(before.filter(|e| journal::is_right(e)).map(latency), 0.99);
        self.findings.note(format!("baseline p99 {}", crate::findings::time(p99)));
        p99
    }

    /// The p99 latency of right answers to requests due since the fault began.
    pub(crate) fn p99(&self, journal: &LoadJournal) -> Duration {
        let since = journal.due_in(self.scale.warm_up..Duration::MAX);
        quantile(since.filter(|e| journal::is_right(e)).map(latency), 0.99)
    }

    /// The logged runs of a load's requests.
    pub(crate) fn runs(&self, journal: &LoadJournal) -> Result<Runs> {
        Runs::read(&self.fleet.run_log(), journal.nonce)
    }

    /// Waits until a worker has begun another batch, which takes at least [`BATCH_MS`].
    pub(crate) async fn batch_begun(&self, worker: usize) -> Result<()> {
        let id = self.fleet.workers[worker].program()?.id().context("the worker has ended")?;
        let log = self.fleet.run_log().join(id.to_string());
        let before = fs::metadata(&log)?.len();
        let begun = async {
            while fs::metadata(&log)?.len() == before {
                sleep(MOMENT).await;
            }
            Ok(())
        };
        timeout(IDLE_LIMIT, begun).await.context("the worker begins no batch")?
    }

    /// The sum of a metric over all running gateways.
    pub(crate) async fn gateways(&self, metric: &str, label: &str) -> Result<f64> {
        let mut sum = 0.0;
        for gateway in self.fleet.gateways.iter().filter(|gateway| gateway.is_started()) {
            sum += Scrape::of(&gateway.admin).await?.sum(metric, label);
        }
        Ok(sum)
    }

    /// Checks the promises common to all faults, after the end of all loads: no request is left,
    /// the gateways' counts balance, no reply was misrouted, no program panicked.
    pub(crate) async fn finish(mut self) -> Result<Findings> {
        self.idle().await?;
        for gateway in self.fleet.gateways.iter().filter(|gateway| gateway.is_started()) {
            let scrape = Scrape::of(&gateway.admin).await?;
            let books = scrape.books();
            if !books.balance() {
                self.findings.check(false, format!("books do not balance: {books:?}"));
            }
            let misrouted = scrape.sum("batchfleet_gateway_misrouted_total", "");
            if misrouted > 0.0 {
                self.findings.check(false, format!("misrouted {misrouted}"));
            }
        }
        for panic in self.fleet.panics() {
            self.findings.check(false, format!("a panic: {panic}"));
        }
        Ok(self.findings)
    }

    /// Waits until the queues are empty and no request is in flight.
    async fn idle(&mut self) -> Result<()> {
        let since = Instant::now();
        loop {
            let in_flight = self.gateways("batchfleet_gateway_in_flight", "").await?;
            let mut left = Queues::default();
            for control in self.fleet.redises.controls() {
                left = left + control.queues().await?;
            }
            if left == Queues::default() && in_flight < 0.5 {
                return Ok(());
            }
            if since.elapsed() > IDLE_LIMIT {
                let text = format!("left after 5 s: {left:?}, {in_flight} in flight");
                self.findings.check(false, text);
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The current time, by the clock of the run log.
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
