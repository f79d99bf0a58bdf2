//! How long the engine waits between two batches, in one process and over Redis, with an echo. Older
//! programs can be measured in turn with these.

mod engine_totals;
mod served;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use batchfleet_loadgen::{Length, LoadPlan, Pace, run};
use tempfile::TempDir;
use tokio::time::Instant;

use self::{
    engine_totals::{EngineTotals, quantile},
    served::{Place, Served},
};
use crate::{
    echo::{Marked, repository},
    table::{goal, median},
};

const ROUNDS: usize = 3;
/// Time before a measurement for connections and batch sizes to settle.
const WARM_UP: Duration = Duration::from_secs(1);
/// Timeout of a request, longer than any deadline of a gateway.
const PATIENCE: Duration = Duration::from_mins(1);

/// A load, what serves it, and the goals.
struct Case {
    name: &'static str,
    place: Place,
    users: usize,
    bytes: usize,
    /// Time of a batch.
    batch_ms: u32,
    /// The flags of the worker.
    flags: &'static [&'static str],
    goals: &'static [Goal],
}

/// A goal for what is measured.
enum Goal {
    /// The median of the gap is at most this many microseconds.
    Gap(f64),
    /// The model runs at least this share of the time.
    Busy(f64),
    /// At least this share of the batches is ready when the run before ends.
    Ready(f64),
}

/// The loads. Where N is 16 or less, jobs wait at any time.
const CASES: [Case; 7] = [
    Case {
        name: "one process, 128 callers, 256 B, 2 ms",
        place: Place::OneProcess,
        users: 128,
        bytes: 256,
        batch_ms: 2,
        flags: &[],
        goals: &[Goal::Busy(0.97)],
    },
    Case {
        name: "one process, 32 callers, 602 KB, N = 8, 10 ms",
        place: Place::OneProcess,
        users: 32,
        bytes: 602_112,
        batch_ms: 10,
        flags: &["--batch", "8"],
        goals: &[Goal::Gap(100.0)],
    },
    Case {
        name: "Redis, 64 callers, 256 B, 2 ms",
        place: Place::Redis,
        users: 64,
        bytes: 256,
        batch_ms: 2,
        flags: &[],
        goals: &[Goal::Gap(40.0)],
    },
    Case {
        name: "Redis, 128 callers, 256 B, N = 16, 2 ms",
        place: Place::Redis,
        users: 128,
        bytes: 256,
        batch_ms: 2,
        flags: &["--batch", "16"],
        goals: &[Goal::Gap(40.0), Goal::Busy(0.95)],
    },
    Case {
        name: "Redis, 32 callers, 150 KB, N = 4, 2 ms",
        place: Place::Redis,
        users: 32,
        bytes: 150_528,
        batch_ms: 2,
        flags: &["--batch", "4"],
        goals: &[],
    },
    Case {
        name: "Redis, 32 callers, 602 KB, N = 4, 20 ms",
        place: Place::Redis,
        users: 32,
        bytes: 602_112,
        batch_ms: 20,
        flags: &["--batch", "4"],
        goals: &[Goal::Gap(100.0)],
    },
    Case {
        name: "Redis 5 ms away, 128 callers, 256 B, N = 16, 20 ms",
        place: Place::RedisAway(Duration::from_millis(5)),
        users: 128,
        bytes: 256,
        batch_ms: 20,
        flags: &["--batch", "16"],
        goals: &[Goal::Ready(0.95)],
    },
];

/// What was measured under one load.
struct Measured {
    /// Mean rows of a batch.
    batch: f64,
    /// The share of the batches that were ready when the run before ended.
    ready: f64,
    /// The median and the 90th percentile of the gap of these batches, in microseconds.
    gap: [f64; 2],
    /// The share of the time in which the model ran.
    busy: f64,
}

/// Prints the gap and the engine's use, for `previous`, the folder of older programs, and for this
/// build.
pub(crate) async fn bench(lasts: Duration, previous: Option<&Path>) -> Result<()> {
    println!(
        "\n| echo, closed loop | worker | mean batch | batches ready in time | gap p50 µs | p90 µs | \
         engine busy |\n|---|---|---|---|---|---|---|"
    );
    let mut verdicts = Vec::new();
    for case in &CASES {
        verdicts.push((case, compare(case, previous, lasts).await?));
    }
    println!();
    for (case, (runs, before)) in &verdicts {
        for wanted in case.goals {
            wanted.print(case.name, runs, before);
        }
    }
    Ok(())
}

/// Measures a case with this build, and with older programs.
async fn compare(
    case: &Case,
    previous: Option<&Path>,
    lasts: Duration,
) -> Result<(Vec<Measured>, Vec<Measured>)> {
    let folder = case.repository()?;
    let start = async |programs: Option<&Path>| {
        Served::start(case.place, folder.path(), case.flags, programs).await
    };
    let now = start(None).await?;
    let before = match previous {
        Some(programs) => Some(start(Some(programs)).await?),
        None => None,
    };
    let (mut runs, mut earlier) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        if let Some(before) = &before {
            earlier.push(case.measure("before", before, lasts).await?);
        }
        runs.push(case.measure("now", &now, lasts).await?);
    }
    Ok((runs, earlier))
}

impl Case {
    /// A model repository with an echo that takes this long.
    fn repository(&self) -> Result<TempDir> {
        let folder = repository()?;
        let config: PathBuf = folder.path().join("echo/config.pbtxt");
        let value = format!("value {{ string_value: \"{}\" }}", self.batch_ms);
        let batch_ms = format!("parameters {{ key: \"batch_ms\" {value} }}\n");
        fs::write(&config, fs::read_to_string(&config)? + &batch_ms)?;
        Ok(folder)
    }

    /// Prints and returns what is measured.
    async fn measure(&self, worker: &str, served: &Served, lasts: Duration) -> Result<Measured> {
        let target = served.target().await?;
        let load = |length: Duration| -> Result<LoadPlan> {
            let workload = Arc::new(Marked::new(self.bytes)?);
            Ok(LoadPlan {
                users: self.users,
                pace: Pace::Closed,
                length: Length::Time(length),
                timeout: PATIENCE,
                ..LoadPlan::new(target.clone(), workload, 0)
            })
        };
        run(load(WARM_UP)?).await?;
        let (before, began) = (EngineTotals::read(served).await?, Instant::now());
        run(load(lasts)?).await?;
        let took = began.elapsed();
        let since = EngineTotals::read(served).await?.since(&before);
        let measured = Measured {
            batch: since.rows / since.batches,
            ready: since.gaps.last().map_or(0.0, |last| last.1) / since.batches,
            gap: [0.5, 0.9].map(|share| quantile(&since.gaps, share) * 1e6),
            busy: since.busy / took.as_secs_f64(),
        };
        let Measured { batch, ready, gap: [p50, p90], busy } = measured;
        println!(
            "| {} | {worker} | {batch:.1} | {:.0} % | {p50:.0} | {p90:.0} | {:.1} % |",
            self.name,
            ready * 100.0,
            busy * 100.0
        );
        Ok(measured)
    }
}

impl Goal {
    /// Prints the median of the runs, and whether it meets the goal.
    fn print(&self, case: &str, runs: &[Measured], before: &[Measured]) {
        let of = |runs: &[Measured], figure: fn(&Measured) -> f64| {
            median(runs.iter().map(figure).collect())
        };
        let (what, unit, figure, least, most): (_, _, fn(&Measured) -> f64, _, _) = match *self {
            Self::Gap(most) => ("gap p50", "µs", |run| run.gap[0], 0.0, most),
            Self::Busy(least) => ("engine busy", "%", |run| run.busy * 100.0, least * 100.0, 100.0),
            Self::Ready(least) => {
                ("batches ready in time", "%", |run| run.ready * 100.0, least * 100.0, 100.0)
            }
        };
        let value = of(runs, figure);
        let earlier = match before {
            [] => String::new(),
            before => format!(", before {:.1}", of(before, figure)),
        };
        let text = format!("{value:.1} {unit}{earlier}");
        let bound = if least > 0.0 { format!(">= {least}") } else { format!("<= {most}") };
        let kept = value >= least && value <= most;
        goal(&format!("{case}: {what}"), &text, kept, &format!("{bound} {unit}"));
    }
}
