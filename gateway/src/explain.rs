//! The response to `GET /v2/models/{model}/batching`: the reasons for the batch size, the number of
//! workers that the load needs, and the effect of twice the load. Pure functions.

use std::time::Duration;

use batchfleet_broker::{Announcement, BatchBound, Batching, QueueName};
use batchfleet_policy::{Speed, UTILIZATION, fewest};
use serde::{Deserialize, Serialize};

/// Upper limit of the planned number of workers.
const MOST_WORKERS: u32 = 10_000;

/// The state of a queue, as a gateway observes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ObservedQueue {
    /// Jobs that no worker has claimed.
    pub queue_depth: u64,
    /// Rows per second that all gateways put into the queue; `None` while unknown.
    pub rows_per_second: Option<f64>,
}

/// The batching of a model's requests, and the reasons for the batch size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The model.
    pub model: String,
    /// The version of the model.
    pub version: String,
    /// The reason for N, as a sentence.
    pub why: String,
    /// What users of the model should know, as sentences: why it does not batch, which settings of
    /// its config have no effect.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Requests that wait for a worker.
    pub queue_depth: u64,
    /// Rows per second that all gateways accept.
    pub rows_per_second: Option<f64>,
    /// Rows per second that all workers together can run within the latency target.
    pub capacity: f64,
    /// The number of workers, and how many the load needs.
    pub workers: Workers,
    /// N now, and N under other loads.
    pub n: Sizes,
    /// The batching of each living worker.
    pub by_worker: Vec<Member>,
}

/// Numbers of workers. The wanted numbers are `None` while the load or the workers' speed is
/// unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    /// Living workers.
    pub live: usize,
    /// Workers that the present load needs, each used to 88 % of its capacity.
    pub wanted: Option<u32>,
    /// Workers that twice the load would need.
    pub wanted_at_twice_the_load: Option<u32>,
}

/// Values of N. `None` while the load or the workers' speed is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// The smallest N of a worker.
    pub least: Option<u32>,
    /// The largest N of a worker.
    pub most: Option<u32>,
    /// N of the same workers under twice the load.
    pub at_twice_the_load: Option<u32>,
    /// N while every worker is busy all the time.
    pub at_full_load: Option<u32>,
}

/// The batching of one worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The worker's name.
    pub worker: String,
    /// Rows per second that the worker can run within the latency target.
    pub capacity: f64,
    /// The worker's measurements, its N and its recent batches.
    #[serde(flatten)]
    pub batching: Batching,
}

impl Explanation {
    /// Explains the batching of a queue from the announcements of its living `workers`.
    pub fn of<'a>(
        queue: &QueueName,
        queue_state: ObservedQueue,
        workers: impl Iterator<Item = &'a Announcement>,
    ) -> Self {
        let workers: Vec<&Announcement> = workers.collect();
        let batches = workers.iter().any(|worker| worker.model.batches());
        let mut notes: Vec<String> = Vec::new();
        for note in workers.iter().flat_map(|worker| &worker.notes) {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        let mut by_worker: Vec<Member> = workers.into_iter().filter_map(Member::of).collect();
        by_worker.sort_by(|a, b| a.worker.cmp(&b.worker));
        // Plan the number of workers with the speed of the slowest worker.
        let slowest = by_worker.iter().min_by(|a, b| a.capacity.total_cmp(&b.capacity));
        let model = slowest.and_then(|member| speed(&member.batching));
        let rate = queue_state.rows_per_second;
        let wanted = |times: f64| {
            let model = model.as_ref()?;
            fewest(rate? * times, UTILIZATION, MOST_WORKERS, |workers| model.capacity(workers))
        };
        let live = by_worker.len();
        let count = u32::try_from(live).unwrap_or(u32::MAX);
        let ns = || by_worker.iter().map(|member| member.batching.n);
        let twice = model.as_ref().zip(rate).map(|(model, rate)| model.n(count, rate * 2.0));
        Self {
            model: queue.model.clone(),
            version: queue.version.to_string(),
            why: match slowest {
                Some(slowest) => why(&slowest.batching, batches),
                None => "no worker serves it".to_owned(),
            },
            notes,
            queue_depth: queue_state.queue_depth,
            rows_per_second: rate,
            capacity: by_worker.iter().map(|member| member.capacity).sum(),
            workers: Workers { live, wanted: wanted(1.0), wanted_at_twice_the_load: wanted(2.0) },
            n: Sizes {
                least: ns().min(),
                most: ns().max(),
                at_twice_the_load: twice,
                at_full_load: slowest.map(|member| member.batching.full_load_n),
            },
            by_worker,
        }
    }
}

impl Member {
    fn of(worker: &Announcement) -> Option<Self> {
        let (name, capacity) = (worker.worker.clone(), worker.capacity);
        Some(Self { worker: name, capacity, batching: worker.batching.clone()? })
    }
}

/// The speed of a worker, computed from the batching that it announces.
pub(crate) fn speed(batching: &Batching) -> Option<Speed> {
    let (fixed_sizes, by_hand) = (batching.fixed_sizes, batching.by_hand());
    Speed::new(&batching.profile(), fixed_sizes, by_hand, batching.slo(), batching.overhead())
}

/// The reason for N, as a sentence.
fn why(batching: &Batching, batches: bool) -> String {
    let Batching { n, slo_ms, workers, .. } = *batching;
    let rows = |rows: u32| if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
    let reason = match &batching.bound {
        _ if !batches => "each request runs alone, because the model does not batch".to_owned(),
        BatchBound::Slo => {
            let most = rows(batching.slo_n.unwrap_or(n));
            format!(
                "{most} are the most that keep the latency target of {slo_ms:.0} ms, because a \
                 request may have to wait for one batch before its own, and fewer than {n} would \
                 cost throughput"
            )
        }
        BatchBound::NoGain if n == 1 && batching.curve.len() < 2 => {
            "larger batches were not measured".to_owned()
        }
        BatchBound::NoGain if n == 1 => {
            "larger batches take as much longer as they hold more".to_owned()
        }
        BatchBound::NoGain => {
            format!("more than {} a batch would hardly be faster per row", rows(n))
        }
        BatchBound::MaxBatch if n == 1 => "the model runs one row at a time".to_owned(),
        BatchBound::MaxBatch => {
            let most = batching.curve.last().map_or(n, |&(rows, _)| rows);
            format!("the model may run {most} at once, and fewer than {n} would cost throughput")
        }
        BatchBound::MaxBatchTime => {
            "larger batches might take so long that the worker takes them for a hang; raise \
             --max-batch-time"
                .to_owned()
        }
        BatchBound::Untried => {
            "the warm-up had no time for larger batches, so N doubles with each full batch"
                .to_owned()
        }
        BatchBound::RateMatched => format!(
            "{workers} workers share {:.0} rows per second; a worker that claimed more would keep \
             them waiting while another worker is free",
            batching.rows_per_second.unwrap_or_default()
        ),
        BatchBound::Backlog => format!(
            "the requests that are there cannot all be answered within {slo_ms:.0} ms, so throughput \
             goes first"
        ),
        BatchBound::SloInfeasible => format!(
            "this model cannot keep the latency target of {slo_ms:.0} ms at any batch size, so \
             throughput goes first"
        ),
        BatchBound::Fixed => "the worker was started with it".to_owned(),
        BatchBound::Published => "it was published for all workers".to_owned(),
        BatchBound::Memory => "larger batches ran out of the memory there is".to_owned(),
        BatchBound::Mismatch => {
            "answers of batches differed from the answers to the same requests alone".to_owned()
        }
        BatchBound::Other(code) => code.clone(),
    };
    format!("N = {n}: {reason}{}", advice(batching).unwrap_or_default())
}

/// The latency target that a model needs which is slow for its present target.
fn advice(batching: &Batching) -> Option<String> {
    let is_limited =
        matches!(batching.bound, BatchBound::Slo | BatchBound::Backlog | BatchBound::SloInfeasible);
    let (target, rate) =
        speed(batching).filter(|_| is_limited)?.better_target(batching.workers.max(1))?;
    Some(format!(
        ". With --slo-p99 {} each worker would run {rate:.0} rows per second within the target; \
         the longest wait that the gateway allows is its --deadline",
        rounded_up(target)
    ))
}

/// A duration as a setting, rounded up to two digits or so.
fn rounded_up(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms <= 1000 => format!("{}ms", ms.div_ceil(10) * 10),
        ms => format!("{}ms", ms.div_ceil(100) * 100),
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{ModelSpec, WorkerId};

    use super::*;

    /// L(b) = 8 + 2 b milliseconds.
    fn worker(number: u128, n: u32, bound: BatchBound, capacity: f64) -> Announcement {
        let spec = ModelSpec {
            queue: QueueName::new("m", 3),
            platform: String::new(),
            backend: String::new(),
            max_batch: std::num::NonZeroU32::new(64),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let curve = [1_u32, 8, 64].map(|rows| (rows, 8.0 + 2.0 * f64::from(rows))).to_vec();
        let batching = Batching {
            n,
            bound,
            slo_ms: 100.0,
            curve,
            full_load_n: 17,
            slo_n: Some(19),
            workers: 2,
            ..Batching::default()
        };
        let announcement = Announcement::new(WorkerId(number), spec);
        Announcement { capacity, batch_limit: n, batching: Some(batching), ..announcement }
    }

    fn explain(workers: &[Announcement], rate: Option<f64>) -> Explanation {
        let observed = ObservedQueue { queue_depth: 5, rows_per_second: rate };
        Explanation::of(&QueueName::new("m", 3), observed, workers.iter())
    }

    #[test]
    fn a_model_without_workers_is_explained_too() {
        let idle = explain(&[], Some(10.0));
        assert_eq!(idle.why, "no worker serves it");
        assert_eq!((idle.workers.live, idle.workers.wanted), (0, None));
    }

    #[test]
    fn tells_how_many_workers_the_load_needs_and_what_twice_the_load_would_change() {
        let workers = [
            worker(1, 2, BatchBound::RateMatched, 400.0),
            worker(2, 3, BatchBound::RateMatched, 390.0),
        ];
        let fleet = explain(&workers, Some(300.0));
        assert!((fleet.capacity - 790.0).abs() < 1e-9);
        assert_eq!(
            (fleet.n.least, fleet.n.most, fleet.n.at_full_load),
            (Some(2), Some(3), Some(17))
        );
        // One worker runs 17 rows in 42 ms: 405 per second, of which 88 % are 356.
        let Workers { live, wanted, wanted_at_twice_the_load } = fleet.workers;
        assert_eq!((live, wanted, wanted_at_twice_the_load), (2, Some(1), Some(2)));
        // Two workers, 600 rows per second: 300 · 8 / (1 − 300 · 0.002) ms = 6 rows, times 1.9.
        assert_eq!(fleet.n.at_twice_the_load, Some(12));
    }

    #[test]
    fn every_reason_is_a_sentence() {
        for bound in [
            BatchBound::Slo,
            BatchBound::NoGain,
            BatchBound::MaxBatch,
            BatchBound::MaxBatchTime,
            BatchBound::Untried,
            BatchBound::RateMatched,
            BatchBound::Backlog,
            BatchBound::SloInfeasible,
            BatchBound::Fixed,
            BatchBound::Published,
            BatchBound::Memory,
            BatchBound::Mismatch,
        ] {
            let why = explain(&[worker(1, 4, bound.clone(), 400.0)], None).why;
            assert!(why.starts_with("N = 4: ") && !why.ends_with(bound.code()), "{why}");
        }
    }

    #[test]
    fn the_notes_of_all_workers_are_shown_once() {
        let noted = |number: u128, notes: &[&str]| Announcement {
            notes: notes.iter().map(|note| (*note).to_owned()).collect(),
            ..worker(number, 4, BatchBound::Slo, 400.0)
        };
        let fleet = explain(&[noted(1, &["a", "b"]), noted(2, &["b", "c"])], None);
        assert_eq!(fleet.notes, ["a", "b", "c"]);
    }

    #[test]
    fn never_speaks_of_batches_that_cannot_run_or_were_not_measured() {
        let mut alone = worker(1, 1, BatchBound::NoGain, 400.0);
        alone.batching.as_mut().unwrap().curve.truncate(1);
        assert_eq!(explain(&[alone.clone()], None).why, "N = 1: larger batches were not measured");
        alone.model.max_batch = None;
        assert_eq!(
            explain(&[alone], None).why,
            "N = 1: each request runs alone, because the model does not batch"
        );
    }

    #[test]
    fn a_model_that_is_too_slow_for_its_target_gets_the_target_that_it_needs() {
        let slow = |bound, slo_ms| {
            let mut slow = worker(1, 48, bound, 84.0);
            if let Some(batching) = &mut slow.batching {
                batching.slo_ms = slo_ms;
                batching.workers = 1;
                batching.curve = vec![(1, 100.0), (64, 730.0)];
            }
            explain(&[slow], None).why
        };
        let why = slow(BatchBound::SloInfeasible, 100.0);
        assert!(
            why.contains("cannot keep the latency target of 100 ms at any batch size"),
            "{why}"
        );
        for bound in [BatchBound::SloInfeasible, BatchBound::Slo, BatchBound::Backlog] {
            let why = slow(bound, 100.0);
            assert!(why.contains(". With --slo-p99 1200ms each worker would run 8"), "{why}");
        }
        assert!(!slow(BatchBound::Slo, 1200.0).contains("--slo-p99"));
        assert!(!slow(BatchBound::RateMatched, 100.0).contains("--slo-p99"));
    }

    #[test]
    fn survives_serialization() {
        let fleet = explain(&[worker(1, 4, BatchBound::Slo, 400.0)], Some(1.0));
        let text = serde_json::to_string(&fleet).unwrap();
        assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), fleet);
    }
}
