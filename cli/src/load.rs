//! `batchfleet load`: sends load to any server of the protocol, checks every answer, and reports.

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
    Digits, Echo, Length, LoadError, LoadPlan, Pace, Report, Sampled, Second, Stop, Summary,
    Target, Workload, digits,
    infer::Encoding,
    model::{Metadata, SampleShape, until_ready},
    page, run,
};
use batchfleet_service::{complain, settings::duration};
use clap::{Args, ValueEnum, builder::ArgPredicate, value_parser};
use tokio::signal::ctrl_c;

use crate::{server::ServerSettings, tool};

/// The model whose expected answers are in a file.
const DIGITS: &str = "digits_wide";
/// The platform of models that return their input.
const ECHO: &str = "batchfleet_echo";

/// Settings of `batchfleet load`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadSettings {
    /// URLs of the servers; users are assigned round-robin
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080"
    )]
    url: Vec<String>,

    /// URLs of the gRPC ports of the servers, such as `http://127.0.0.1:8001`: the load is sent to them,
    /// and only the metadata of the model is read from --url
    #[arg(long, value_name = "URL", value_delimiter = ',', conflicts_with = "format")]
    grpc: Vec<String>,

    /// Send the load over HTTP/2: with TLS as negotiated, without TLS with prior knowledge
    #[arg(long, conflicts_with = "grpc")]
    http2: bool,

    /// The model
    #[arg(long, value_name = "NAME")]
    model: String,

    /// Number of users, each with one connection and at most one request in flight [default: 100,
    /// or 1000 with --rate]
    #[arg(
        long,
        value_name = "N",
        default_value = "100",
        default_value_if("rate", ArgPredicate::IsPresent, "1000"),
        hide_default_value = true
    )]
    users: usize,

    /// Requests per second of an open loop: requests are due at random times, regardless of the
    /// answers, and latency counts from the due time. Without it the loop is closed: each user
    /// sends its next request after the answer to its last
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,

    /// Measured time
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    duration: Duration,

    /// Longest time to wait until the server can be reached and the model is ready
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    wait: Duration,

    /// Time before the measurement
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    warm_up: Duration,

    /// Timeout of a request
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    timeout: Duration,

    /// Answers that take longer are counted as late
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    slo_p99: Duration,

    /// Encoding of tensors
    #[arg(long, value_name = "FORMAT", default_value = "binary")]
    format: Format,

    #[command(flatten)]
    server: ServerSettings,

    /// Let refused users pause for the time in Retry-After
    #[arg(long)]
    honour_retry_after: bool,

    #[command(flatten)]
    inputs: InputSettings,

    /// Write the report as an HTML page with charts
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Settings of the inputs and the check of answers.
#[derive(Args, Clone, Debug)]
struct InputSettings {
    /// File with digits and expected answers for the model `digits_wide`; other models, and a
    /// missing file, get random inputs
    #[arg(long, value_name = "FILE", default_value = ".cache/digits_test.csv")]
    digits: PathBuf,

    /// Number of different random inputs
    #[arg(long, value_name = "N", default_value_t = 64)]
    inputs: usize,

    /// Rows of a random input
    #[arg(long, value_name = "N", default_value_t = 1)]
    rows: u64,

    /// Size of the other open dimensions of random inputs
    #[arg(long, value_name = "N", default_value_t = 64)]
    free: u64,

    /// Largest integer in random inputs; lower it for models that use integers as indices
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u8).range(..=127))]
    integers: u8,

    /// Learn the answer to each random input from a single request before the run, and compare
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

    /// Tolerance of the comparison, as a share of the largest number of an output; ten times as much
    /// for floats of 16 bits. Floating-point results depend slightly on the batch size
    #[arg(long, value_name = "SHARE", default_value_t = 0.001)]
    tolerance: f64,
}

/// Encoding of tensors.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// JSON numbers.
    Json,
    /// Raw bytes.
    Binary,
}

/// Runs the load and prints the report. Status 1 if an answer was wrong, or none was right.
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
    let plan = LoadPlan {
        targets,
        users: settings.users,
        pace: settings.rate.map_or(Pace::Closed, |per_second| Pace::Open { per_second }),
        warm_up: settings.warm_up,
        length: Length::Time(settings.duration),
        timeout: settings.timeout,
        honour_retry_after: settings.honour_retry_after,
        watch: io::stderr().is_terminal().then(|| Arc::new(print_second) as _),
        stop: stop.clone(),
        ..LoadPlan::new(target, workload, 0)
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
    let over_http = settings.url.iter().map(|url| settings.server.target(url));
    if settings.http2 {
        return over_http.map(|target| target.map(Target::over_http2)).collect();
    }
    if settings.grpc.is_empty() {
        return over_http.collect();
    }
    let over_grpc = settings.grpc.iter().map(|url| settings.server.target(url));
    over_grpc.map(|target| target.map(Target::over_grpc)).collect()
}

/// The workload: digits or echo, with known answers, for the models that support them; otherwise
/// random inputs.
async fn workload(
    settings: &LoadSettings,
    target: &Target,
) -> Result<Arc<dyn Workload>, LoadError> {
    let LoadSettings { model, inputs, .. } = settings;
    let encoding = match settings.format {
        _ if !settings.grpc.is_empty() => Encoding::Grpc,
        Format::Json => Encoding::Json,
        Format::Binary => Encoding::Binary,
    };
    let described = settings.server.target(settings.url.first().map_or("", String::as_str))?;
    if !settings.wait.is_zero() {
        until_ready(&described, model, settings.wait, settings.timeout).await?;
    }
    let metadata = Metadata::of(&described, model, settings.timeout).await?;
    if model == DIGITS && inputs.digits.exists() {
        return Ok(Arc::new(Digits::new(model, digits::read(&inputs.digits)?.into(), encoding)?));
    }
    if let [input] = &metadata.inputs[..]
        && (&*metadata.platform, &*input.datatype, &*input.shape) == (ECHO, "UINT8", &[-1, -1])
    {
        return Ok(Arc::new(Echo::new(model, &input.name, inputs.rows, inputs.free, encoding)?));
    }
    let sizes = SampleShape { rows: inputs.rows, free: inputs.free, most: inputs.integers };
    let mut sampled = Sampled::draw(&metadata, encoding, inputs.inputs, sizes)?;
    if inputs.verify {
        let twins = sampled.learn(target, settings.timeout, inputs.tolerance).await?;
        if twins > 0 {
            complain(&format!(
                "{twins} of {} inputs have the same answer as another: a mix-up of these is not detected",
                inputs.inputs
            ));
        }
    }
    Ok(Arc::new(sampled))
}

/// Prints one line per second.
fn print_second(second: &Second) {
    let Second { number, right, wrong, refused, failed, p50_ms, p99_ms, .. } = second;
    complain(&format!(
        "{number:>5} s {right:>8} right {refused:>6} refused {failed:>6} failed {wrong:>4} wrong \
         {p50_ms:>9.1} ms p50 {p99_ms:>9.1} ms p99"
    ));
}

fn title(settings: &LoadSettings) -> String {
    let load = match settings.rate {
        Some(rate) => format!("{rate} requests/s"),
        None => format!("{} users", settings.users),
    };
    let url = if settings.grpc.is_empty() { &settings.url } else { &settings.grpc };
    format!("{load} on {} at {}", settings.model, url.join(", "))
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
