//! Usage of each model by each client, as metrics with a bounded number of series.
//!
//! The pairs of client and model with the most requests have series of their own. All others are
//! counted together, with the client `other`.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use batchfleet_broker::Timing;
use parking_lot::Mutex;
use prometheus::{Counter, CounterVec, IntCounter, IntCounterVec};
use tokio::time::Instant;

/// The client of all pairs without series of their own.
const OTHER: &str = "other";
/// How often the pairs with series of their own are chosen.
const PERIOD: Duration = Duration::from_mins(1);
/// How many more pairs than those with series are compared in a period.
const CANDIDATES: usize = 10;

batchfleet_service::metrics! {
    /// Metrics of usage.
    #[derive(Clone, Debug)]
    pub(crate) struct UsageMetrics {
        /// Requests of a client for a model, answered or refused. The clients with the most requests
        /// are named; all others are `other`.
        #[metric(
            "batchfleet_gateway_usage_requests_total",
            unit = "requests",
            labels = ["client", "model"]
        )]
        requests: IntCounterVec,
        /// Rows that a client's requests had.
        #[metric("batchfleet_gateway_usage_rows_total", unit = "rows", labels = ["client", "model"])]
        rows: IntCounterVec,
        /// Bytes of the bodies of a client's requests and of their answers.
        #[metric(
            "batchfleet_gateway_usage_bytes_total",
            unit = "bytes",
            labels = ["client", "model"]
        )]
        bytes: IntCounterVec,
        /// Time that models ran for a client: for each request its share of the batch, by rows.
        #[metric(
            "batchfleet_gateway_usage_compute_seconds_total",
            unit = "seconds",
            labels = ["client", "model"]
        )]
        compute_seconds: CounterVec,
    }
}

/// What one request used.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestUsage {
    /// The client; `None` if it is unknown.
    pub(crate) client: Option<Arc<str>>,
    /// The model; `None` if it is unknown.
    pub(crate) model: Option<Arc<str>>,
    pub(crate) rows: u32,
    pub(crate) request_bytes: usize,
    pub(crate) response_bytes: u64,
    pub(crate) compute: Duration,
}

/// The part of a batch's run that belongs to a request of this number of rows. A request with more
/// rows than its batches has them alone.
pub(crate) fn compute_share(timing: &Timing, rows: u32) -> Duration {
    let share = match timing.batch_rows {
        0 => 1.0,
        of_batch => (f64::from(rows) / f64::from(of_batch)).min(1.0),
    };
    timing.compute_infer.mul_f64(share)
}

/// Counts usage.
#[derive(Debug)]
pub(crate) struct Usage {
    metrics: UsageMetrics,
    pairs: Mutex<Pairs>,
}

/// A client and a model.
type Pair = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Pairs {
    top: Top<Pair>,
    until: Instant,
    /// The series in use.
    series: HashMap<Pair, Series>,
    other: Arc<str>,
}

/// The series of one pair.
#[derive(Debug)]
struct Series {
    requests: IntCounter,
    rows: IntCounter,
    bytes: IntCounter,
    compute_seconds: Counter,
}

impl Series {
    fn of(pair: &Pair, metrics: &UsageMetrics) -> Self {
        let labels = [&*pair.0, &*pair.1];
        Self {
            requests: metrics.requests.with_label_values(&labels),
            rows: metrics.rows.with_label_values(&labels),
            bytes: metrics.bytes.with_label_values(&labels),
            compute_seconds: metrics.compute_seconds.with_label_values(&labels),
        }
    }
}

impl Usage {
    /// Keeps series of their own for at most `most` pairs of client and model.
    pub(crate) fn new(most: usize, metrics: UsageMetrics) -> Self {
        let (top, until) = (Top::new(most), Instant::now() + PERIOD);
        let pairs = Pairs { top, until, series: HashMap::new(), other: OTHER.into() };
        Self { metrics, pairs: Mutex::new(pairs) }
    }

    /// Counts a request of a known client for a known model.
    pub(crate) fn count(&self, used: &RequestUsage) {
        let (Some(client), Some(model)) = (&used.client, &used.model) else { return };
        let mut pairs = self.pairs.lock();
        let pairs = &mut *pairs;
        if pairs.top.most == 0 {
            return;
        }
        let now = Instant::now();
        if now >= pairs.until {
            pairs.until = now + PERIOD;
            for pair in pairs.top.choose() {
                pairs.series.remove(&pair);
                self.forget([&*pair.0, &*pair.1]);
            }
        }
        let mut pair = (client.clone(), model.clone());
        if !pairs.top.count(&pair) {
            pair.0 = pairs.other.clone();
        }
        let metrics = &self.metrics;
        let series = pairs.series.entry(pair).or_insert_with_key(|pair| Series::of(pair, metrics));
        series.requests.inc();
        series.rows.inc_by(used.rows.into());
        series.bytes.inc_by(used.request_bytes as u64 + used.response_bytes);
        series.compute_seconds.inc_by(used.compute.as_secs_f64());
    }

    /// Removes the series of a pair, which may be missing.
    fn forget(&self, labels: [&str; 2]) {
        let metrics = &self.metrics;
        metrics.requests.remove_label_values(&labels).ok();
        metrics.rows.remove_label_values(&labels).ok();
        metrics.bytes.remove_label_values(&labels).ok();
        metrics.compute_seconds.remove_label_values(&labels).ok();
    }
}

/// The keys with the most uses, and candidates that may replace them.
#[derive(Debug)]
struct Top<K> {
    most: usize,
    /// The uses of each chosen key in this period.
    chosen: HashMap<K, u64>,
    candidates: HashMap<K, u64>,
}

impl<K: Clone + Eq + Hash> Top<K> {
    fn new(most: usize) -> Self {
        Self { most, chosen: HashMap::new(), candidates: HashMap::new() }
    }

    /// Counts a use. Returns whether the key is chosen.
    fn count(&mut self, key: &K) -> bool {
        if let Some(uses) = self.chosen.get_mut(key) {
            *uses += 1;
            return true;
        }
        if self.chosen.len() < self.most {
            self.chosen.insert(key.clone(), 1);
            return true;
        }
        if let Some(uses) = self.candidates.get_mut(key) {
            *uses += 1;
        } else if self.candidates.len() < CANDIDATES * self.most {
            self.candidates.insert(key.clone(), 1);
        }
        false
    }

    /// Ends a period: chooses the keys with the most uses. Returns those that are not chosen any
    /// more. On a tie, a key stays chosen.
    fn choose(&mut self) -> Vec<K> {
        let before: HashSet<K> = self.chosen.keys().cloned().collect();
        let mut all: Vec<(K, u64)> = self.chosen.drain().chain(self.candidates.drain()).collect();
        all.sort_by_key(|(key, uses)| (std::cmp::Reverse(*uses), !before.contains(key)));
        self.chosen = all.into_iter().take(self.most).map(|(key, _)| (key, 0)).collect();
        before.into_iter().filter(|key| !self.chosen.contains_key(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_service::metrics::MetricGroup;
    use prometheus::{Encoder, Registry, TextEncoder};
    use tokio::time::advance;

    use super::*;

    #[test]
    fn the_keys_with_the_most_uses_are_chosen_for_the_next_period() {
        let mut top = Top::new(2);
        for (key, uses) in [("a", 5), ("b", 1), ("c", 3), ("d", 1)] {
            for _ in 0..uses {
                assert_eq!(top.count(&key), key < "c", "{key}");
            }
        }
        assert_eq!(top.choose(), ["b"]);
        assert!(top.count(&"a") && top.count(&"c") && !top.count(&"b"));
        assert_eq!(top.choose(), [""; 0], "a tie");
    }

    #[test]
    fn candidates_are_bounded() {
        let mut top = Top::new(1);
        for key in 0..10_000 {
            top.count(&key);
        }
        assert_eq!((top.chosen.len(), top.candidates.len()), (1, CANDIDATES));
    }

    fn request(client: &str, bytes: usize) -> RequestUsage {
        RequestUsage {
            client: Some(client.into()),
            model: Some("m".into()),
            rows: 2,
            request_bytes: bytes,
            response_bytes: 1,
            compute: Duration::from_millis(500),
        }
    }

    fn text(registry: &Registry) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn usage_is_counted_by_client_up_to_a_number_of_series() {
        let registry = Registry::new();
        let usage = Usage::new(1, UsageMetrics::register(&registry).unwrap());
        usage.count(&request("alice", 10));
        for _ in 0..3 {
            usage.count(&request("bob", 9));
        }
        usage.count(&RequestUsage { client: None, ..request("unseen", 5) });
        let before = text(&registry);
        for line in [
            "usage_requests_total{client=\"alice\",model=\"m\"} 1\n",
            "usage_requests_total{client=\"other\",model=\"m\"} 3\n",
            "usage_rows_total{client=\"other\",model=\"m\"} 6\n",
            "usage_bytes_total{client=\"other\",model=\"m\"} 30\n",
            "usage_compute_seconds_total{client=\"other\",model=\"m\"} 1.5\n",
        ] {
            assert!(before.contains(line), "{line} in {before}");
        }
        assert!(!before.contains("bob") && !before.contains("unseen"), "{before}");
        advance(PERIOD).await;
        usage.count(&request("bob", 9));
        let after = text(&registry);
        assert!(after.contains("usage_requests_total{client=\"bob\",model=\"m\"} 1\n"), "{after}");
        assert!(
            after.contains("usage_requests_total{client=\"other\",model=\"m\"} 3\n"),
            "{after}"
        );
        assert!(!after.contains("alice"), "{after}");
    }
}
