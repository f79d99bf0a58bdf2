//! Why batches are as large as they are, how many workers the load wants, and what more of it would
//! change: the answer to `GET /v2/models/{model}/batching`. Pure.

use batchfleet_broker::{Announcement, BatchBound, Batching, QueueName};
use batchfleet_policy::{Speed, UTILIZATION, fewest};
use serde::{Deserialize, Serialize};

/// More workers than anybody has.
const MOST_WORKERS: u32 = 10_000;

/// What the gateway sees of a queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Jobs that no worker has claimed.
    pub queue_depth: u64,
    /// Rows that all gateways put into it per second; `None` while unknown.
    pub rows_per_second: Option<f64>,
}

/// How a model's requests are batched, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The reason for N, in words.
    pub why: String,
    /// Requests that wait.
    pub queue_depth: u64,
    /// Rows accepted per second, by all gateways.
    pub rows_per_second: Option<f64>,
    /// Rows per second that all workers can do within the latency target.
    pub capacity: f64,
    /// How many workers there are, and how many the load wants.
    pub workers: Workers,
    /// N now, and what it would be.
    pub n: Sizes,
    /// What each living worker knows and does.
    pub by_worker: Vec<Member>,
}

/// Numbers of workers. Those wanted are `None` while the load or the workers' speed is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    /// That live.
    pub live: usize,
    /// That the load of now wants, each busy for 88 % of what it can do.
    pub wanted: Option<u32>,
    /// That twice the load would want.
    pub wanted_at_twice_the_load: Option<u32>,
}

/// Ns. `None` while the load or the workers' speed is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// The smallest among the workers.
    pub least: Option<u32>,
    /// The largest.
    pub most: Option<u32>,
    /// With the same workers under twice the load.
    pub at_twice_the_load: Option<u32>,
    /// With all the load there could be.
    pub at_full_load: Option<u32>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub worker: String,
    /// Rows per second it can do within the latency target.
    pub capacity: f64,
    /// What it knows, chose and ran.
    #[serde(flatten)]
    pub batching: Batching,
}

impl Explanation {
    /// Explains what the living `workers` of a queue say, from what the gateway sees.
    pub fn of<'a>(
        queue: &QueueName,
        seen: Seen,
        workers: impl Iterator<Item = &'a Announcement>,
    ) -> Self {
        let mut by_worker: Vec<Member> = workers.filter_map(Member::of).collect();
        by_worker.sort_by(|a, b| a.worker.cmp(&b.worker));
        // Capacity is planned by whoever can do least.
        let slowest = by_worker.iter().min_by(|a, b| a.capacity.total_cmp(&b.capacity));
        let model = slowest.and_then(|member| speed(&member.batching));
        let rate = seen.rows_per_second;
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
            why: slowest.map_or_else(|| "no worker serves it".to_owned(), |one| why(&one.batching)),
            queue_depth: seen.queue_depth,
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
    fn of(word: &Announcement) -> Option<Self> {
        let (worker, capacity) = (word.worker.clone(), word.capacity);
        Some(Self { worker, capacity, batching: word.batching.clone()? })
    }
}

/// How fast a worker is, rebuilt from what it says.
pub(crate) fn speed(said: &Batching) -> Option<Speed> {
    let by_hand = said.by_hand();
    Speed::new(&said.profile(), said.fixed_sizes, by_hand, said.slo(), said.overhead())
}

/// The reason for N, in words.
fn why(said: &Batching) -> String {
    let Batching { n, slo_ms, workers, .. } = *said;
    let rows = |rows: u32| if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
    let reason = match &said.bound {
        BatchBound::Slo => {
            let most = rows(said.slo_n.unwrap_or(n));
            format!(
                "{most} are the most that keep the latency target of {slo_ms:.0} ms, because a \
                 request may have to wait for one batch before its own, and fewer than {n} would \
                 cost throughput"
            )
        }
        BatchBound::NoGain if n == 1 => {
            "larger batches take as much longer as they hold more".to_owned()
        }
        BatchBound::NoGain => {
            format!("more than {} a batch would hardly be faster per row", rows(n))
        }
        BatchBound::MaxBatch => {
            let most = said.curve.last().map_or(n, |&(rows, _)| rows);
            format!("the model may run {most} at once, and fewer than {n} would cost throughput")
        }
        BatchBound::RateMatched => format!(
            "{workers} workers share {:.0} rows per second; whoever claimed more would keep them \
             waiting while another worker is free",
            said.rows_per_second.unwrap_or_default()
        ),
        BatchBound::Backlog => format!(
            "requests already wait for longer than {slo_ms:.0} ms, so throughput goes first"
        ),
        BatchBound::SloInfeasible => format!(
            "not even one row keeps the latency target of {slo_ms:.0} ms, so throughput goes first"
        ),
        BatchBound::Fixed => "the worker was started with it".to_owned(),
        BatchBound::Published => "it was published for all workers".to_owned(),
        BatchBound::Memory => "larger batches ran out of the memory there is".to_owned(),
        BatchBound::Other(code) => code.clone(),
    };
    format!("N = {n}: {reason}")
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{ModelSpec, WorkerId};

    use super::*;

    /// L(b) = 8 + 2 b milliseconds.
    fn word(worker: u128, n: u32, bound: BatchBound, capacity: f64) -> Announcement {
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
        let announcement = Announcement::new(WorkerId(worker), spec);
        Announcement { capacity, batch_limit: n, batching: Some(batching), ..announcement }
    }

    fn explain(words: &[Announcement], rate: Option<f64>) -> Explanation {
        let seen = Seen { queue_depth: 5, rows_per_second: rate };
        Explanation::of(&QueueName::new("m", 3), seen, words.iter())
    }

    #[test]
    fn nobody_serving_is_an_answer_too() {
        let nobody = explain(&[], Some(10.0));
        assert_eq!(nobody.why, "no worker serves it");
        assert_eq!((nobody.workers.live, nobody.workers.wanted), (0, None));
    }

    #[test]
    fn says_how_many_workers_a_load_wants_and_what_twice_as_much_would_change() {
        let words = [
            word(1, 2, BatchBound::RateMatched, 400.0),
            word(2, 3, BatchBound::RateMatched, 390.0),
        ];
        let fleet = explain(&words, Some(300.0));
        assert!((fleet.capacity - 790.0).abs() < 1e-9);
        assert_eq!(
            (fleet.n.least, fleet.n.most, fleet.n.at_full_load),
            (Some(2), Some(3), Some(17))
        );
        // One does 17 rows in 42 ms: 405 a second, of which 88 % are 356.
        let Workers { live, wanted, wanted_at_twice_the_load } = fleet.workers;
        assert_eq!((live, wanted, wanted_at_twice_the_load), (2, Some(1), Some(2)));
        // Two workers, 600 rows a second: 300 · 8 / (1 − 300 · 0.002) ms = 6 rows, times 1.9.
        assert_eq!(fleet.n.at_twice_the_load, Some(12));
    }

    #[test]
    fn every_reason_is_a_sentence() {
        for bound in [
            BatchBound::Slo,
            BatchBound::NoGain,
            BatchBound::MaxBatch,
            BatchBound::RateMatched,
            BatchBound::Backlog,
            BatchBound::SloInfeasible,
            BatchBound::Fixed,
            BatchBound::Published,
            BatchBound::Memory,
        ] {
            let why = explain(&[word(1, 4, bound.clone(), 400.0)], None).why;
            assert!(why.starts_with("N = 4: ") && !why.ends_with(bound.code()), "{why}");
        }
    }

    #[test]
    fn survives_the_way_to_whoever_asked() {
        let fleet = explain(&[word(1, 4, BatchBound::Slo, 400.0)], Some(1.0));
        let text = serde_json::to_string(&fleet).unwrap();
        assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), fleet);
    }
}
