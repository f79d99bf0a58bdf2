//! Requests of unequal length, in one process and over Redis: with declared padding they run in
//! batches, every caller gets the answer to its own request, workers announce what they can do, and
//! long requests end no process.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "the tests print their figures")]

mod served;

use std::{path::Path, time::Duration};

use batchfleet_loadgen::{Ending, Report};
use batchfleet_testkit::named_echo_model;
use served::{Served, Texts};
use tempfile::TempDir;

/// Users of a model.
const USERS: usize = 64;
const MEASURED: Duration = Duration::from_secs(5);
const COMPARISONS: usize = 3;
/// The costs and N have settled after so many batches, which are run in loads of this time.
const SETTLED: f64 = 64.0;
const SETTLING: Duration = Duration::from_secs(1);
const FULL_LOAD: Duration = Duration::from_secs(3);
/// A batch of b rows takes 4 + 0.05 · b milliseconds, whatever their length.
const TIMES: [(&str, &str); 2] = [("batch_ms", "4"), ("row_ms", "0.05")];
const BATCH_SECONDS: f64 = 4e-3;
const ROW_SECONDS: f64 = 50e-6;
const PADDING: [(&str, &str); 2] = [("pad", "INPUT0:1=46"), ("cut", "OUTPUT0:1")];
/// The lengths of texts: lognormal with median 55 and σ = 0.9, cut to 24 to 512 bytes, at equal
/// steps of probability.
const LENGTHS: [u64; 32] = [
    24, 24, 24, 24, 24, 26, 29, 32, 34, 37, 40, 43, 46, 49, 52, 55, 56, 60, 64, 68, 73, 78, 83, 90,
    97, 106, 116, 129, 146, 170, 214, 512,
];

/// A model under load.
struct Rate {
    /// Answers per second.
    measured: f64,
    /// Answers per second of the same batches without any delay of the machine.
    undelayed: f64,
    /// Mean rows of a batch.
    rows: f64,
}

/// Loads a model with texts of these lengths.
async fn rate(served: &Served, model: &str, lengths: &[u64]) -> Rate {
    let totals = async || {
        (served.sum(model, "batch_size_sum").await, served.sum(model, "batch_size_count").await)
    };
    let (rows_before, batches_before) = totals().await;
    let report = served.load(USERS, Texts::new(model, 1, lengths), MEASURED).await;
    assert!(report.is_flawless(), "{model}: {report}");
    let (rows, batches) = totals().await;
    let (rows, batches) = (rows - rows_before, batches - batches_before);
    let undelayed = rows / (batches * BATCH_SECONDS + rows * ROW_SECONDS);
    Rate { measured: report.rate(), undelayed, rows: rows / batches }
}

/// Compares texts of one length with texts of unequal lengths. Other work on the machine delays callers,
/// so that fewer of them wait for a batch: one of the comparisons must find what padding gains.
async fn padding_gains(served: &Served) {
    let mut problems = Vec::new();
    while problems.len() < COMPARISONS {
        match compare(served).await {
            Ok(()) => return,
            Err(problem) => problems.push(problem),
        }
    }
    assert!(problems.is_empty(), "{problems:?}");
}

/// Compares texts of one length with texts of unequal lengths, without padding and with padding.
async fn compare(served: &Served) -> Result<(), &'static str> {
    let one_length = rate(served, "padded", &[64]).await;
    let unequal = rate(served, "plain", &LENGTHS).await;
    let padded = rate(served, "padded", &LENGTHS).await;
    println!("{}, {USERS} users:", served.name());
    let all = [("one length", &one_length), ("unequal", &unequal), ("padded", &padded)];
    for (name, Rate { measured, undelayed, rows }) in all {
        println!(
            "{name}: {measured:.0} answers/s, {undelayed:.0} without delays of the machine, {rows:.1} \
             rows a batch"
        );
    }
    // The load itself takes much of two cores, and so does other work, so that measured rates differ
    // less than batches.
    match () {
        () if padded.rows < 4.0 * unequal.rows => Err("too few rows in a padded batch"),
        () if padded.undelayed < 2.5 * unequal.undelayed => Err("padding gains too little"),
        () if padded.undelayed < 0.6 * one_length.undelayed => Err("padding costs too much"),
        () => Ok(()),
    }
}

fn write_plain_and_padded() -> TempDir {
    let folder = TempDir::new().unwrap();
    named_echo_model(folder.path(), "plain", 256, &TIMES).unwrap();
    named_echo_model(folder.path(), "padded", 256, &[TIMES, PADDING].concat()).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn padded_texts_run_in_batches_in_one_process() {
    let folder = write_plain_and_padded();
    padding_gains(&Served::in_one_process(folder.path(), &[]).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn padded_texts_run_in_batches_over_redis() {
    let folder = write_plain_and_padded();
    padding_gains(&Served::over_redis(folder.path(), &["plain", "padded"]).await).await;
}

/// Texts whose rows take time for each byte.
const OF_LENGTH: [(&str, &str); 2] = [("batch_ms", "4"), ("length_us", "20")];
const BYTE_SECONDS: f64 = 20e-6;
/// Sizes to compare N with.
const FIXED: [&str; 3] = ["8", "24", "64"];

/// A worker under full load.
struct FullLoad {
    /// Rows per second while batches ran: a busy machine delays them, too.
    rate: f64,
    /// Rows per second of the same batches without any delay.
    undelayed: f64,
    /// What the worker announces then.
    announced: f64,
    /// The share of padding.
    padding: f64,
}

/// Loads a worker until its costs and N have settled, and measures it then.
async fn full_load(repository: &Path, flags: &[&str], lengths: &[u64]) -> FullLoad {
    let served = Served::in_one_process(repository, flags).await;
    let load = async |time| {
        let report = served.load(USERS, Texts::new("texts", 1, lengths), time).await;
        assert!(report.is_flawless(), "{report}");
    };
    let totals = async || {
        let mut totals = [0.0; 5];
        let names = ["batch_size_sum", "batch_size_count", "batch_seconds_sum"];
        let names = names.into_iter().chain(["padded_positions_total", "positions_total"]);
        for (total, name) in totals.iter_mut().zip(names) {
            *total = served.sum("texts", name).await;
        }
        totals
    };
    while served.sum("texts", "batch_size_count").await < SETTLED {
        load(SETTLING).await;
    }
    let before = totals().await;
    load(FULL_LOAD).await;
    let after = totals().await;
    let [rows, batches, seconds, padding, positions] =
        std::array::from_fn(|at| after[at] - before[at]);
    FullLoad {
        rate: rows / seconds,
        undelayed: rows / (batches * BATCH_SECONDS + positions * BYTE_SECONDS),
        announced: served.sum("texts", "capacity_rows_per_second").await,
        padding: padding / positions,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_announce_what_they_serve_and_choose_a_good_n_at_any_lengths() {
    let folder = TempDir::new().unwrap();
    let parameters = [OF_LENGTH, PADDING].concat();
    named_echo_model(folder.path(), "texts", 64, &parameters).unwrap();
    let short = LENGTHS.map(|length| length.min(64));
    let long = LENGTHS.map(|length| 256 + length / 2);
    for (name, lengths) in [("short", short), ("lognormal", LENGTHS), ("long", long)] {
        let FullLoad { rate, undelayed, announced, padding } =
            full_load(folder.path(), &[], &lengths).await;
        let (mut best, mut best_undelayed) = (0.0_f64, 0.0_f64);
        for n in FIXED {
            let fixed = full_load(folder.path(), &["--batch", n], &lengths).await;
            (best, best_undelayed) = (best.max(fixed.rate), best_undelayed.max(fixed.undelayed));
        }
        println!(
            "{name} texts: {rate:.0} rows/s while batches ran, {undelayed:.0} without delays of the \
             machine ({:.0} % padding), {announced:.0} announced; with the best fixed N {best:.0}, \
             {best_undelayed:.0} without delays",
            100.0 * padding
        );
        assert!(
            (0.85 * rate..=1.15 * undelayed).contains(&announced),
            "{announced:.0} announced, {rate:.0} to {undelayed:.0} served"
        );
        // Where each batch is delayed, more padding pays than on a quiet machine.
        assert!(rate >= 0.9 * best || undelayed >= 0.9 * best_undelayed, "a fixed N is better");
    }
}

/// A row of 512 bytes takes 51 ms.
const DOCUMENT: u64 = 512;
const SLOW: [(&str, &str); 2] = [("batch_ms", "1"), ("length_us", "100")];
const QUICK: Duration = Duration::from_millis(50);

/// Every request is answered or refused at once, and no worker ends.
async fn survives(served: &Served) {
    for (users, rows) in [(64, 1), (8, 64)] {
        let texts = Texts::new("documents", rows, &[DOCUMENT]);
        let report = served.load(users, texts, Duration::from_secs(10)).await;
        let refusals = quick_refusals(&report);
        println!(
            "{}: {users} users of {rows} documents: {report}99 % of {} refusals took at most {:.1?}",
            served.name(),
            refusals.len(),
            percentile_99(&refusals)
        );
        assert!(report.right > 0 && report.wrong == 0 && report.failed == 0, "{report}");
        served.sum("documents", "batch_size_count").await;
    }
}

/// The times of refusals, of which 99 % must be quick.
fn quick_refusals(report: &Report) -> Vec<Duration> {
    let mut refusals: Vec<Duration> = Vec::new();
    for entry in &report.journal {
        if let Ending::Refused(refusal) = &entry.ending {
            assert!(
                [429, 503].contains(&refusal.status),
                "an accepted request failed: {refusal:?}"
            );
            refusals.push(entry.done.saturating_sub(entry.sent));
        }
    }
    refusals.sort_unstable();
    let p99 = percentile_99(&refusals);
    assert!(p99 <= QUICK, "refusals take {p99:?}");
    refusals
}

/// The 99th percentile of ascending times; 0 if there are none.
fn percentile_99(times: &[Duration]) -> Duration {
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

fn write_documents() -> TempDir {
    let folder = TempDir::new().unwrap();
    named_echo_model(folder.path(), "documents", 256, &SLOW).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_documents_end_no_process() {
    let folder = write_documents();
    survives(&Served::in_one_process(folder.path(), &[]).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_documents_end_no_worker_over_redis() {
    let folder = write_documents();
    survives(&Served::over_redis(folder.path(), &["documents"]).await).await;
}
