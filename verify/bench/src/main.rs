//! What a request costs and what batching gains: real programs on a real Redis, loads in turn on
//! rigs that differ in one setting, so that a busy neighbour hurts all of them alike.
#![expect(clippy::print_stdout, reason = "its output is tables")]

mod bare;
mod echo;
mod origin;
mod rig;
mod sweep;
mod table;
mod traces;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

/// Prints what a request costs, what batching gains, and how good the chosen N is
#[derive(Parser)]
struct Settings {
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,

    /// How long each run is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    seconds: u64,

    #[command(flatten)]
    files: Files,
}

/// What is served and sent.
#[derive(clap::Args)]
pub(crate) struct Files {
    /// The demo models
    #[arg(long, value_name = "DIR", default_value = ".cache/models")]
    pub(crate) models: PathBuf,

    /// Models made for this program
    #[arg(long, value_name = "DIR", default_value = ".cache/bench-models")]
    pub(crate) bench_models: PathBuf,

    /// ONNX Runtime's library
    #[arg(
        long,
        env = "ORT_DYLIB_PATH",
        value_name = "FILE",
        default_value = ".cache/onnxruntime/libonnxruntime.so"
    )]
    pub(crate) onnxruntime: PathBuf,

    /// Handwritten digits and their answers
    #[arg(long, value_name = "FILE", default_value = ".cache/digits_test.csv")]
    pub(crate) digits: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One by one, N = 32, N = 64 and auto; 100 and 5,000 users
    Origin,
    /// CPU per request and latency where the model costs nothing
    Echo,
    /// CPU per answer over the model alone; throughput over one by one
    Bare,
    /// Goodput of auto against every fixed N
    Sweep,
    /// CPU per request with and without traces
    Traces,
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    // Dropped, it takes its programs with it.
    tokio::select! {
        status = measure(&settings) => status,
        () = told_to_end() => ExitCode::FAILURE,
    }
}

async fn told_to_end() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => drop(terminate.recv().await),
        Err(_) => std::future::pending().await,
    }
}

/// Measures what was asked for.
async fn measure(settings: &Settings) -> ExitCode {
    for part in Part::value_variants() {
        if !settings.only.is_empty() && !settings.only.contains(part) {
            continue;
        }
        let lasts = Duration::from_secs(settings.seconds);
        let done = match part {
            Part::Origin => origin::bench(&settings.files, lasts).await,
            Part::Echo => echo::bench(lasts).await,
            Part::Bare => bare::bench(&settings.files, lasts).await,
            Part::Sweep => sweep::bench(&settings.files, lasts).await,
            Part::Traces => traces::bench(lasts).await,
        };
        if let Err(error) = done {
            eprintln!("error: {part:?}: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
