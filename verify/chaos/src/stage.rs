//! Where a fault is played: a fleet, loads on it, and the oracle that judges every run alike.

use std::{
    pin::Pin,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};

use crate::{
    control::Queues,
    findings::Findings,
    fleet::{Fleet, Plan},
    load::{Load, Shape},
    metrics::Scrape,
    runs::Runs,
    seen::{self, Seen, latency, quantile},
};

/// N of every worker.
pub(crate) const BATCH: u32 = 8;
/// The fixed part of a batch's time.
pub(crate) const BATCH_MS: f64 = 20.0;
/// The part of a batch's time that each row adds.
pub(crate) const ROW_MS: f64 = 0.5;
/// How often something that shall happen soon is looked for.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// How soon after the last answer nothing may be left of any request.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// Requests this young are no baseline: connections were still being opened.
const UNSETTLED: Duration = Duration::from_millis(500);

/// How large the fleet and the loads are, and how long faults last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) gateways: usize,
    pub(crate) workers: usize,
    /// Users of the closed loop.
    pub(crate) clients: usize,
    /// How long a load runs before its fault.
    pub(crate) warm_up: Duration,
    /// How long a fault is kept up, where it is one that can be.
    pub(crate) lasts: Duration,
    /// Everything random follows from it.
    pub(crate) seed: u64,
    /// Whether the programs may be slow: a debug build, beside other work.
    pub(crate) slow: bool,
}

impl Scale {
    /// As the fault matrix has it.
    pub(crate) fn whole(lasts: Duration, seed: u64) -> Self {
        let warm_up = Duration::from_secs(5);
        Self { gateways: 2, workers: 4, clients: 1000, warm_up, lasts, seed, slow: false }
    }

    /// Small enough for every change's tests, which run a debug build: speeds are noted, not judged.
    pub(crate) fn short(lasts: Duration, seed: u64) -> Self {
        let warm_up = Duration::from_secs(3);
        Self { gateways: 2, workers: 2, clients: 200, warm_up, lasts, seed, slow: true }
    }

    /// The usual fleet.
    pub(crate) fn plan(&self) -> Plan {
        Plan {
            gateways: self.gateways,
            workers: self.workers,
            worker_flags: ["--batch".to_owned(), BATCH.to_string()].into(),
            parameters: [("batch_ms", BATCH_MS.to_string()), ("row_ms", ROW_MS.to_string())].into(),
            ..Plan::default()
        }
    }

    /// Requests per second that this many workers can answer at most.
    pub(crate) fn capacity(workers: usize) -> f64 {
        Self::capacity_of(workers, BATCH_MS + ROW_MS * f64::from(BATCH))
    }

    /// The same, if a full batch takes so many milliseconds.
    pub(crate) fn capacity_of(workers: usize, batch_ms: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let workers = workers as f64;
        workers * f64::from(BATCH) / batch_ms * 1e3
    }

    /// L1: a closed loop.
    pub(crate) fn closed(&self) -> Shape {
        Shape::closed(self.clients)
    }

    /// L2: an open loop at 70 % of what the workers can do.
    pub(crate) fn open(&self) -> Shape {
        self.open_at(0.7)
    }

    /// An open loop at this share of what the workers can do.
    pub(crate) fn open_at(&self, share: f64) -> Shape {
        Shape::open(share * Self::capacity(self.workers), 2 * self.clients)
    }
}

/// A run of a fault, on its way.
pub(crate) type Playing = Pin<Box<dyn Future<Output = Result<Findings>>>>;

/// One fleet, and what was found out about it.
pub(crate) struct Stage {
    pub(crate) scale: Scale,
    pub(crate) fleet: Fleet,
    pub(crate) random: StdRng,
    pub(crate) findings: Findings,
}

impl Stage {
    /// Starts a fleet.
    pub(crate) async fn start(scale: Scale, plan: &Plan) -> Result<Self> {
        let fleet = Fleet::start(plan).await?;
        let random = StdRng::seed_from_u64(scale.seed);
        let findings = if scale.slow { Findings::of_a_slow_machine() } else { Findings::default() };
        Ok(Self { scale, fleet, random, findings })
    }

    /// Starts a fleet as usual.
    pub(crate) async fn usual(scale: Scale) -> Result<Self> {
        Self::start(scale, &scale.plan()).await
    }

    /// Starts a load on all gateways and lets it run for the time before a fault.
    pub(crate) async fn load(&self, shape: Shape) -> Result<Load> {
        let load = shape.start(self.fleet.targets())?;
        sleep(self.scale.warm_up).await;
        Ok(load)
    }

    /// When a fault that begins now ends.
    pub(crate) fn until(&self) -> Instant {
        Instant::now() + self.scale.lasts
    }

    /// Ends a load, every request of which must have been answered, and none with another's answer.
    pub(crate) async fn stop(&mut self, load: Load) -> Result<Seen> {
        let seen = self.stop_mortal(load).await?;
        self.findings.none("lost", seen.report.failed);
        let troubles = seen.report.troubles.iter().filter(|text| text.starts_with("failed"));
        for trouble in troubles.take(1) {
            self.findings.note(trouble);
        }
        Ok(seen)
    }

    /// Ends a load, some of whose connections were cut by the fault itself.
    pub(crate) async fn stop_mortal(&mut self, load: Load) -> Result<Seen> {
        let seen = load.stop().await?;
        self.findings.note(format!("{} sent", seen.report.sent));
        for (refusal, count) in seen.refusals() {
            self.findings.note(format!("{count} x {refusal}"));
        }
        self.findings.none("wrong", seen.report.wrong);
        self.findings.check(seen.report.right > 0, format!("{} right", seen.report.right));
        Ok(seen)
    }

    /// Promises that every request was answered 200.
    pub(crate) fn all_right(&mut self, seen: &Seen) {
        self.findings.none("not answered 200:", seen.report.refusals());
    }

    /// The p99 before the fault began.
    pub(crate) fn baseline(&mut self, seen: &Seen) -> Duration {
        let before = seen.due_in(UNSETTLED..self.scale.warm_up);
        let p99 = quantile(before.filter(|e| seen::is_right(e)).map(latency), 0.99);
        self.findings.note(format!("baseline p99 {}", crate::findings::time(p99)));
        p99
    }

    /// The p99 of all right answers to requests due since the fault began.
    pub(crate) fn p99(&self, seen: &Seen) -> Duration {
        let since = seen.due_in(self.scale.warm_up..Duration::MAX);
        quantile(since.filter(|e| seen::is_right(e)).map(latency), 0.99)
    }

    /// What the echoes ran of a load.
    pub(crate) fn runs(&self, seen: &Seen) -> Result<Runs> {
        Runs::read(&self.fleet.run_log(), seen.nonce)
    }

    /// The sum of a metric over all gateways.
    pub(crate) async fn gateways(&self, metric: &str, label: &str) -> Result<f64> {
        let mut sum = 0.0;
        for gateway in self.fleet.gateways.iter().filter(|gateway| gateway.is_started()) {
            sum += Scrape::of(&gateway.admin).await?.sum(metric, label);
        }
        Ok(sum)
    }

    /// Asks what must hold after every fault, whatever it was; all loads have ended.
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

    /// Waits until nothing is left of any request.
    async fn idle(&mut self) -> Result<()> {
        let since = Instant::now();
        loop {
            let in_flight = self.gateways("batchfleet_gateway_in_flight", "").await?;
            let left = self.fleet.control().queues().await?;
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

/// Now, by the clock that the run log uses.
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
