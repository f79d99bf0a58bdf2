//! `batchfleet demo`: throughput and latency of recognising handwritten digits for many clients,
//! first one request at a time, then in batches; with `--model text`, of encoding sentences.

mod picture;
mod text;

use std::{path::PathBuf, sync::Arc, time::Duration};

use batchfleet_gateway::{ClientSettings, GatewaySettings, LivePage, TlsSettings};
use batchfleet_loadgen::{
    Digits, HttpAnswer, Length, LoadPlan, Prepared, Report, Target, Workload,
    digits::{self, Digit},
    infer::Encoding,
    run,
};
use batchfleet_policy::BatchMode;
use batchfleet_service::{
    OutageSettings, Process, ProcessSettings, settings, trace::TraceSettings,
};
use batchfleet_worker::{ModelSettings, Wanted};
use clap::Args;
use parking_lot::Mutex;
use prometheus::Registry;

use crate::{model_control::ModelControlSettings, one_process::OneProcess, tool};

/// The model of the demo.
const MODEL: &str = "digits_wide";
/// The number of digits drawn in the terminal.
const PICTURES: usize = 8;
/// Time for caches, connections and N to settle before the measurement.
const WARM_UP: Duration = Duration::from_millis(500);
const NO_BATCHES: &str = "the worker ran no batches";

/// Settings of the demo.
#[derive(Args, Clone)]
pub(crate) struct DemoSettings {
    #[command(flatten)]
    models: ModelSettings,

    /// File with handwritten digits and their labels, written by `models/digits_wide.py`
    #[arg(long, value_name = "FILE", default_value = ".cache/digits_test.csv")]
    digits: PathBuf,

    /// File with the tokens of sentences, written by `models/text.py`
    #[arg(long, value_name = "FILE", default_value = ".cache/sentences.csv")]
    sentences: PathBuf,

    /// Number of clients; each sends its next digit after the answer to its last
    #[arg(long, value_name = "N", default_value_t = 100)]
    users: usize,

    /// Measured time of each run
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = settings::duration)]
    duration: Duration,

    /// Log level or filter
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

impl DemoSettings {
    pub(crate) fn process(&self) -> ProcessSettings {
        ProcessSettings {
            admin_listen: ([127, 0, 0, 1], 0).into(),
            log: self.log.clone(),
            log_format: settings::LogFormat::Text,
            drain_timeout: Duration::from_secs(10),
            trace: TraceSettings::default(),
        }
    }
}

/// Runs the demo and prints the results.
pub(crate) async fn show(demo: &DemoSettings, process: &Process) -> anyhow::Result<()> {
    if demo.models.models.iter().any(|model| model.name == text::PADDED) {
        return text::show(demo, process).await;
    }
    let digits: Arc<[Digit]> = digits::read(&demo.digits)?.into();
    say(&format!(
        "{} clients send handwritten digits to {MODEL}, one per request, and check each answer.\n",
        demo.users
    ));
    let one_by_one = serve(demo, (MODEL, BatchMode::Fixed(1)), process, async |target| {
        timed(demo, target, &digits).await
    });
    let one_by_one = one_by_one.await?;
    let batched = serve(demo, (MODEL, demo.models.batch), process, async |target: Target| {
        recognise(demo, target.clone(), &digits).await?;
        timed(demo, target, &digits).await
    });
    let batched = batched.await?;
    say(&table(&one_by_one, &batched));
    anyhow::ensure!(
        one_by_one.report.is_flawless() && batched.report.is_flawless(),
        "not all answers were right:\n{}\n{}",
        one_by_one.report,
        batched.report
    );
    Ok(())
}

/// The report of a run, and the mean batch size in rows.
struct Measured {
    report: Report,
    mean_batch: f64,
}

/// Serves a model in this process while `visit` sends requests over HTTP.
async fn serve(
    demo: &DemoSettings,
    (model, batch): (&str, BatchMode),
    process: &Process,
    visit: impl AsyncFnOnce(Target) -> anyhow::Result<Report>,
) -> anyhow::Result<Measured> {
    let gateway = GatewaySettings {
        listen: ([127, 0, 0, 1], 0).into(),
        grpc_listen: None,
        grpc_max_connection_age: Duration::ZERO,
        kserve_v1: false,
        http_threads: None,
        deadline: Duration::from_secs(30),
        max_deadline: Duration::from_mins(2),
        lame_duck: Duration::ZERO,
        max_in_flight: demo.users.max(1024),
        max_body: 1 << 20,
        max_body_bytes_in_flight: 256 << 20,
        body_timeout: Duration::from_secs(10),
        stall_timeout: Duration::from_secs(30),
        keep_alive: Duration::from_secs(75),
        live_page: LivePage::Off,
        allow_origin: Vec::new(),
        tensors_listen: None,
        tensors_advertise: None,
        fetch_from: 64 << 10,
        max_connections: None,
        max_connections_per_address: Some(0),
        max_connection_bytes: 384 << 20,
        strict_readiness: false,
        outage: OutageSettings::default(),
        ready_needs_model: false,
        forget_after: Duration::from_mins(10),
        trace_sample: 0.0,
        access_log: 0.0,
        usage_series: 0,
        tls: TlsSettings::default(),
        clients: ClientSettings::default(),
    };
    let wanted = Wanted { name: model.to_owned(), version: None, digest: None };
    let models = ModelSettings { batch, models: vec![wanted], ..demo.models.clone() };
    let process = Process { shutdown: process.shutdown.child_token(), ..Process::default() };
    let control = ModelControlSettings::default();
    let fleet = OneProcess::start(&gateway, &models, &control, &process).await?;
    let target: Target = format!("http://{}", fleet.address()).parse()?;
    let serving = tokio::spawn(fleet.run());
    let visited = visit(target).await;
    process.shutdown.cancel();
    serving.await??;
    let mean_batch = mean_batch(&process.registry).ok_or_else(|| anyhow::anyhow!(NO_BATCHES))?;
    Ok(Measured { report: visited?, mean_batch })
}

/// Sends each digit once and draws the first few with their answers.
async fn recognise(
    demo: &DemoSettings,
    target: Target,
    digits: &Arc<[Digit]>,
) -> anyhow::Result<()> {
    let album = Arc::new(Album::new(digits)?);
    let users = demo.users.min(digits.len());
    let all = LoadPlan { users, ..LoadPlan::new(target, album.clone(), digits.len() as u64) };
    let report = run(all).await?;
    anyhow::ensure!(report.is_flawless(), "not all answers were right: {report}");
    say(&picture::row(&album.pictures()));
    let accuracy = album.digits.accuracy().unwrap_or_default();
    say(&format!("{:.1} % of {} held-out digits recognised.\n", 100.0 * accuracy, digits.len()));
    Ok(())
}

/// A closed loop with all clients.
async fn timed(
    demo: &DemoSettings,
    target: Target,
    digits: &Arc<[Digit]>,
) -> anyhow::Result<Report> {
    let workload = Arc::new(Digits::new(MODEL, digits.clone(), Encoding::Binary)?);
    let plan = LoadPlan {
        users: demo.users,
        warm_up: WARM_UP,
        length: Length::Time(demo.duration),
        ..LoadPlan::new(target, workload, 0)
    };
    Ok(run(plan).await?)
}

/// The digits workload; keeps the first answers for drawing.
struct Album {
    digits: Digits,
    answers: Mutex<Vec<(u64, usize)>>,
}

impl Album {
    fn new(digits: &Arc<[Digit]>) -> anyhow::Result<Self> {
        let digits = Digits::new(MODEL, digits.clone(), Encoding::Binary)?;
        Ok(Self { digits, answers: Mutex::default() })
    }

    /// Digits and the classes in the model's answers.
    fn pictures(&self) -> Vec<(Digit, usize)> {
        let mut answers = self.answers.lock().clone();
        answers.sort_unstable();
        let pictures = answers.iter().take(PICTURES);
        pictures.map(|&(index, class)| (self.digits.digit(index).clone(), class)).collect()
    }
}

impl Workload for Album {
    fn request(&self, index: u64) -> Prepared {
        self.digits.request(index)
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        let class = digits::most_probable(&Digits::probabilities(answer)?);
        if let Some(class) = class.filter(|_| index < PICTURES as u64) {
            self.answers.lock().push((index, class));
        }
        self.digits.check(index, answer)
    }
}

fn table(one_by_one: &Measured, batched: &Measured) -> String {
    let lines = [line("one by one", one_by_one), line("batched", batched)].concat();
    header() + &lines + &gain("Batched", batched, one_by_one)
}

fn header() -> String {
    format!("{:<12} {:>9} {:>12} {:>12} {:>11}\n", "", "req/s", "p50", "p99", "mean batch")
}

fn line(name: &str, Measured { report, mean_batch }: &Measured) -> String {
    let milliseconds = |quantile| report.latency(quantile).as_secs_f64() * 1000.0;
    let (p50, p99) = (milliseconds(0.5), milliseconds(0.99));
    let rate = report.rate();
    format!("{name:<12} {rate:>9.0} {p50:>9.1} ms {p99:>9.1} ms {mean_batch:>11.1}\n")
}

fn gain(name: &str, measured: &Measured, one_by_one: &Measured) -> String {
    let gain = measured.report.rate() / one_by_one.report.rate();
    format!("\n{name} is {gain:.1} times as fast, on the same machine, in this run.")
}

/// Mean rows per batch, from the metrics of the worker.
fn mean_batch(registry: &Registry) -> Option<f64> {
    let families = registry.gather();
    let sizes = families.iter().find(|family| family.name() == "batchfleet_worker_batch_size")?;
    let (mut rows, mut batches) = (0.0, 0.0);
    for metric in sizes.get_metric() {
        let histogram = metric.get_histogram();
        rows += histogram.get_sample_sum();
        #[expect(clippy::cast_precision_loss, reason = "a count of batches is far below 2^52")]
        let count = histogram.get_sample_count() as f64;
        batches += count;
    }
    (batches > 0.0).then(|| rows / batches)
}

fn say(text: &str) {
    tool::say(&format!("{text}\n"));
}
