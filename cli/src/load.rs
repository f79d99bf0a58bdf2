//! `batchfleet load`: load on any server of the protocol, every answer checked, and a report.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use batchfleet_loadgen::{
    Digits, Echo, Length, LoadError, Pace, Plan, Report, Sampled, Second, Stop, Summary, Target,
    Workload, digits,
    infer::Encoding,
    model::{Choice, Metadata},
    page, run,
};
use batchfleet_service::settings::duration;
use clap::{Args, ValueEnum, builder::ArgPredicate, value_parser};
use tokio::signal::ctrl_c;

use crate::tool;

/// The model whose right answers a file holds.
const DIGITS: &str = "digits_wide";
/// The platform of a model that answers its input.
const ECHO: &str = "batchfleet_echo";

/// Settings of a load.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadSettings {
    /// Servers; users are spread over them
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080"
    )]
    url: Vec<String>,

    /// The model to ask
    #[arg(long, value_name = "NAME")]
    model: String,

    /// Users, each with one connection and at most one request on it [default: 100, or 1000 with
    /// --rate]
    #[arg(
        long,
        value_name = "N",
        default_value = "100",
        default_value_if("rate", ArgPredicate::IsPresent, "1000"),
        hide_default_value = true
    )]
    users: usize,

    /// Open loop: requests fall due at random, so many a second, however slow the answers are;
    /// latency counts from when a request was due. Without it, each user asks again as soon as it
    /// has been answered
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,

    /// How long rates and latencies are measured
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    duration: Duration,

    /// How long before that they are not
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    warm_up: Duration,

    /// How long a user waits for an answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    timeout: Duration,

    /// Answers that take longer are counted as late
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    slo_p99: Duration,

    /// How tensors travel
    #[arg(long, value_name = "FORMAT", default_value = "binary")]
    format: Format,

    /// Sent as x-api-key
    #[arg(long, env = "BATCHFLEET_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,

    /// Let a user that is refused wait as long as Retry-After says
    #[arg(long)]
    honour_retry_after: bool,

    #[command(flatten)]
    inputs: InputSettings,

    /// Write the report as a page with charts
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Write the report for programs
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is sent, and what must come back.
#[derive(Args, Clone, Debug)]
struct InputSettings {
    /// Digits with their answers, for the model `digits_wide`; without the file it gets random
    /// inputs, as other models do
    #[arg(long, value_name = "FILE", default_value = ".cache/digits_test.csv")]
    digits: PathBuf,

    /// How many different random inputs
    #[arg(long, value_name = "N", default_value_t = 64)]
    inputs: usize,

    /// Rows of a random input
    #[arg(long, value_name = "N", default_value_t = 1)]
    rows: u64,

    /// The size of other dimensions that the model leaves open
    #[arg(long, value_name = "N", default_value_t = 64)]
    free: u64,

    /// Whole numbers of random inputs go from 0 to this: lower it where they are indices and the
    /// model has fewer
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u8).range(..=127))]
    integers: u8,

    /// Ask for each random input once, alone, and take only answers like that one for right
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    verify: bool,

    /// How far a number may be from that answer, as a share of the output's largest: what rows
    /// compute depends a little on how many run together
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    tolerance: f64,
}

/// How tensors travel.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// As JSON numbers.
    Json,
    /// As raw bytes.
    Binary,
}

/// Runs the load and reports; status 1 unless every answer that came was right, and any came.
pub(crate) async fn main(settings: &LoadSettings) -> anyhow::Result<ExitCode> {
    let report = load(settings).await?;
    let all_right = report.wrong == 0 && report.right > 0;
    Ok(if all_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn load(settings: &LoadSettings) -> anyhow::Result<Report> {
    let targets = targets(settings)?;
    let target = targets.first().context("no --url")?.clone();
    let workload = workload(settings, &target).await?;
    let stop = Stop::default();
    let plan = Plan {
        targets,
        users: settings.users,
        pace: settings.rate.map_or(Pace::Closed, |per_second| Pace::Open { per_second }),
        warm_up: settings.warm_up,
        length: Length::Time(settings.duration),
        timeout: settings.timeout,
        honour_retry_after: settings.honour_retry_after,
        watch: io::stderr().is_terminal().then(|| Arc::new(tell) as _),
        stop: stop.clone(),
        ..Plan::new(target, workload, 0)
    };
    let mut running = std::pin::pin!(run(plan));
    let report = tokio::select! {
        report = &mut running => report,
        _ = ctrl_c() => {
            stop.now();
            running.await
        }
    }?;
    let summary = Summary::new(&report, Some(settings.slo_p99));
    tool::say(&summary.to_string());
    if let Some(file) = &settings.report {
        write(file, &page::html(&title(settings), &report, &summary))?;
    }
    if let Some(file) = &settings.json {
        write(file, &serde_json::to_string_pretty(&summary)?)?;
    }
    Ok(report)
}

fn targets(settings: &LoadSettings) -> Result<Vec<Target>, LoadError> {
    let targets = settings.url.iter().map(|url| {
        let target: Target = url.parse()?;
        settings.api_key.as_deref().map_or(Ok(target.clone()), |key| target.clone().with_key(key))
    });
    targets.collect()
}

/// What to send: where the right answers are known, those; else whatever the model takes.
async fn workload(
    settings: &LoadSettings,
    target: &Target,
) -> Result<Arc<dyn Workload>, LoadError> {
    let LoadSettings { model, inputs, .. } = settings;
    let encoding = match settings.format {
        Format::Json => Encoding::Json,
        Format::Binary => Encoding::Binary,
    };
    let metadata = Metadata::of(target, model, settings.timeout).await?;
    if model == DIGITS && inputs.digits.exists() {
        return Ok(Arc::new(Digits::new(model, digits::read(&inputs.digits)?.into(), encoding)?));
    }
    if let [input] = &metadata.inputs[..]
        && (&*metadata.platform, &*input.datatype, &*input.shape) == (ECHO, "UINT8", &[-1, -1])
    {
        return Ok(Arc::new(Echo::new(model, &input.name, inputs.rows, inputs.free, encoding)?));
    }
    let choice = Choice { rows: inputs.rows, free: inputs.free, most: inputs.integers };
    let mut sampled = Sampled::draw(&metadata, encoding, inputs.inputs, choice)?;
    if inputs.verify {
        let twins = sampled.learn(target, settings.timeout, inputs.tolerance).await?;
        if twins > 0 {
            eprintln!(
                "{twins} of {} inputs have the answer of another: a mix-up of those would go unseen",
                inputs.inputs
            );
        }
    }
    Ok(Arc::new(sampled))
}

/// One line a second, while somebody watches.
fn tell(second: &Second) {
    let Second { number, right, wrong, refused, failed, p50_ms, p99_ms, .. } = second;
    eprintln!(
        "{number:>5} s {right:>8} right {refused:>6} refused {failed:>6} failed {wrong:>4} wrong \
         {p50_ms:>9.1} ms p50 {p99_ms:>9.1} ms p99"
    );
}

fn title(settings: &LoadSettings) -> String {
    let load = match settings.rate {
        Some(rate) => format!("{rate} requests/s"),
        None => format!("{} users", settings.users),
    };
    format!("{load} on {} at {}", settings.model, settings.url.join(", "))
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
