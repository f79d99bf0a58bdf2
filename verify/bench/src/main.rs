//! Measures the cost of a request and the gain of batching, with real programs on a real Redis.
//! Rigs that differ in one setting are measured in turn, so that other work on the machine affects
//! all rigs equally.
#![expect(clippy::print_stdout, reason = "the program prints tables")]

mod access;
mod bare;
mod callers;
mod capacity;
mod commandstats;
mod control;
mod documents;
mod echo;
mod files;
mod gap;
mod grpc;
mod images;
mod large;
mod lengths;
mod origin;
mod redis_tls;
mod rig;
mod size_change;
mod sweep;
mod table;
mod text;
mod traces;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::files::Files;

/// Measures what a request costs, what batching gains, and how good the chosen N is
#[derive(Parser)]
struct Settings {
    /// Run only these parts
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,

    /// How long each measurement lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    seconds: u64,

    /// Folder with older programs, with which the wait of the engine is compared
    #[arg(long, value_name = "DIR")]
    previous: Option<PathBuf>,

    #[command(flatten)]
    files: Files,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One by one, N = 32, N = 64 and auto; 100 and 5,000 users
    Origin,
    /// CPU per request and latency with a model that costs nothing
    Echo,
    /// The engine's wait between two batches
    Gap,
    /// Latency of few clients whose requests follow their answers
    Callers,
    /// CPU per answer over the model alone; throughput over one by one
    Bare,
    /// CPU per sentence of a text encoder over the best padding without a server
    Text,
    /// Rate of requests of unequal length, padded and not
    Lengths,
    /// Announced capacity against the served rate, and N against fixed sizes, of a text encoder
    Capacity,
    /// Long documents to a text encoder on default settings: processes, failures and refusals
    Documents,
    /// Latency and capacity where a change of the number of rows is expensive
    SizeChange,
    /// Goodput of auto against every fixed N
    Sweep,
    /// CPU per request with and without traces
    Traces,
    /// CPU per request of HTTPS, API keys and tokens
    Access,
    /// CPU per request of TLS between the programs and Redis
    RedisTls,
    /// Rate and latency of small clients beside one whose requests have many rows
    Large,
    /// CPU per image through Redis, and fetched from the gateway
    Images,
    /// CPU per request and latency over gRPC against HTTP
    Grpc,
    /// What an idle fleet costs Redis
    Control,
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    // Dropping the future stops its programs.
    tokio::select! {
        status = measure(&settings) => status,
        () = terminated() => ExitCode::FAILURE,
    }
}

/// Waits for SIGTERM.
async fn terminated() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => drop(terminate.recv().await),
        Err(_) => std::future::pending().await,
    }
}

/// Runs the selected parts.
async fn measure(settings: &Settings) -> ExitCode {
    for part in Part::value_variants() {
        if !settings.only.is_empty() && !settings.only.contains(part) {
            continue;
        }
        let lasts = Duration::from_secs(settings.seconds);
        let done = match part {
            Part::Origin => origin::bench(&settings.files, lasts).await,
            Part::Echo => echo::bench(lasts).await,
            Part::Gap => gap::bench(lasts, settings.previous.as_deref()).await,
            Part::Callers => callers::bench(lasts).await,
            Part::Bare => bare::bench(&settings.files, lasts).await,
            Part::Text => text::bench(&settings.files, lasts).await,
            Part::Lengths => lengths::bench(lasts).await,
            Part::Capacity => capacity::bench(&settings.files, lasts).await,
            Part::Documents => documents::bench(&settings.files, lasts).await,
            Part::SizeChange => size_change::bench(lasts).await,
            Part::Sweep => sweep::bench(&settings.files, lasts).await,
            Part::Traces => traces::bench(lasts).await,
            Part::Access => access::bench(lasts).await,
            Part::RedisTls => redis_tls::bench(lasts).await,
            Part::Large => large::bench(lasts).await,
            Part::Images => images::bench(lasts).await,
            Part::Grpc => grpc::bench(lasts).await,
            Part::Control => control::bench(lasts).await,
        };
        if let Err(error) = done {
            eprintln!("error: {part:?}: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
