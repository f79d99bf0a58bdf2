//! Injects faults into a fleet of real programs and a real Redis, under load that checks every
//! answer. Prints the promise and the measurements of each fault.
#![expect(clippy::print_stdout, reason = "the program prints a table")]

mod balancer;
mod control;
mod crawl;
mod faults;
mod findings;
mod fleet;
mod journal;
mod load;
mod machine;
mod memory;
mod metrics;
mod protocol;
mod redises;
mod runs;
mod trial;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use crate::{
    faults::{FAULTS, Fault, TrialOptions},
    findings::{Findings, time},
    machine::{Lateness, Machine},
    protocol::Protocol,
    trial::Scale,
};

/// The most runs of one fault.
const ATTEMPTS: usize = 3;

/// Injects the faults that one machine can produce; exits with 1 if any promise is broken
#[derive(Parser)]
struct Settings {
    /// Run only these faults, such as F01,F14
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    only: Vec<String>,

    /// The short tier: fewer faults, a smaller fleet, less load
    #[arg(long)]
    short: bool,

    /// Send the loads over gRPC instead of HTTP; all faults but F35, whose older programs speak HTTP only
    #[arg(long)]
    grpc: bool,

    /// How long each fault lasts [default: 60, or 10 in the short tier]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,

    /// Seed of all random choices [default: a random one]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Folder with the programs of an older version, for F35 and F46
    #[arg(long, value_name = "FOLDER")]
    previous: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    // Dropping the run stops every program of its fleet.
    tokio::select! {
        all_passed = run(&settings) => if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE },
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

/// Runs the selected faults. Returns whether at least one ran and all passed.
async fn run(settings: &Settings) -> bool {
    let seed = settings.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let lasts =
        Duration::from_secs(settings.seconds.unwrap_or(if settings.short { 10 } else { 60 }));
    let scale = if settings.short { Scale::short(lasts, seed) } else { Scale::whole(lasts, seed) };
    let protocol = if settings.grpc { Protocol::Grpc } else { Protocol::Http };
    let scale = Scale { protocol, ..scale };
    let is_named = |fault: &Fault| settings.only.iter().any(|id| id.eq_ignore_ascii_case(fault.id));
    let belongs = |fault: &Fault| {
        let fits = protocol == Protocol::Http || fault.id != "F35";
        settings.only.is_empty() && (fault.short || !settings.short) && fits
    };
    let wanted = |fault: &&Fault| is_named(fault) || belongs(fault);
    println!("{scale:?}");
    let options = TrialOptions { scale, previous: settings.previous.clone() };
    println!("| | fault | load | promised | measured | |\n|---|---|---|---|---|---|");
    let (mut passed, mut failed) = (0, 0);
    let machine = Machine::watch();
    for fault in FAULTS.iter().filter(wanted) {
        // Only the short tier runs on machines that do other work.
        let attempts = if settings.short { ATTEMPTS } else { 1 };
        let is_kept = attempt(fault, &options, &machine, attempts).await;
        if is_kept { passed += 1 } else { failed += 1 }
    }
    println!("{passed} passed, {failed} failed");
    failed == 0 && passed > 0
}

/// Runs a fault, and again up to `attempts` times in all if a promise is broken while other work
/// delays the machine. Returns whether the last run kept all promises.
async fn attempt(
    fault: &Fault,
    options: &TrialOptions,
    machine: &Machine,
    attempts: usize,
) -> bool {
    for left in (0..attempts).rev() {
        machine.lateness();
        let began = Instant::now();
        let findings = (fault.run)(options).await.unwrap_or_else(|error| {
            let mut findings = Findings::default();
            findings.check(false, format!("could not be run: {error:#}"));
            findings
        });
        let late = machine.lateness();
        print(fault, &findings, began.elapsed(), late);
        if findings.passed() {
            return true;
        }
        if left == 0 || !late.is_busy() {
            return false;
        }
        eprintln!("{}: again, because the machine was busy with other work", fault.id);
    }
    false
}

fn print(fault: &Fault, findings: &Findings, took: Duration, Lateness(late): Lateness) {
    let verdict = if findings.passed() { "pass" } else { "FAIL" };
    let Fault { id, what, load, pass, .. } = fault;
    println!("| {id} | {what} | {load} | {pass} | {} | {verdict} |", findings.line());
    for failure in findings.failures() {
        println!("    {id} broke a promise: {failure}");
    }
    eprintln!("{id}: {verdict} in {}, machine late by {} (p99)", time(took), time(late));
}
