//! The books of a request at each of its stages.

use batchfleet_broker::Reply;
use prometheus::Registry;
use tokio::sync::Semaphore;

use super::*;

struct Fixture {
    registry: Registry,
    metrics: GatewayMetrics,
    books: Arc<ModelBooks>,
    seats: Arc<Semaphore>,
}

impl Fixture {
    fn new() -> Self {
        let registry = Registry::new();
        let metrics = GatewayMetrics::new(&registry).unwrap();
        let queue = QueueName::new("m", 1);
        let books = Arc::new(ModelBooks::new(queue.clone(), metrics.for_model(&queue)));
        Self { registry, metrics, books, seats: Arc::new(Semaphore::new(1)) }
    }

    fn offered(&self) -> Record<'_> {
        let mut record = Record::arrive(&self.metrics, Trace::off());
        record.offered(&self.books, false);
        record
    }

    fn accepted(&self) -> Record<'_> {
        let mut record = self.offered();
        record.read(3);
        let seat = self.seats.clone().try_acquire_owned().unwrap();
        let work = RequestWork { units: 3.0, ..RequestWork::default() };
        record.accepted(RequestId::random(), Admitted { _seat: seat, work });
        record
    }

    /// The value of the counter or gauge with this label value.
    #[expect(clippy::cast_possible_truncation, reason = "a small count")]
    fn value(&self, name: &str, label: &str) -> i64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let has_label = |metric: &&prometheus::proto::Metric| {
            metric.get_label().iter().any(|pair| pair.value() == label)
        };
        let metric = family.get_metric().iter().find(has_label).unwrap();
        (metric.get_counter().get_value() + metric.get_gauge().get_value()) as i64
    }

    fn counts(&self, values: [(&str, &str); 4]) -> [i64; 4] {
        values.map(|(name, label)| self.value(&format!("batchfleet_gateway_{name}"), label))
    }
}

const BOOKS: [(&str, &str); 4] = [
    ("offered_total", "m"),
    ("refused_total", "cancelled"),
    ("accepted_total", "m"),
    ("in_flight", "m"),
];

#[tokio::test]
async fn a_request_whose_caller_leaves_while_it_is_read_is_refused() {
    let fixture = Fixture::new();
    let record = fixture.offered();
    assert_eq!(fixture.counts(BOOKS), [1, 0, 0, 0]);
    drop(record);
    assert_eq!(fixture.counts(BOOKS), [1, 1, 0, 0]);
}

#[tokio::test]
async fn an_accepted_request_whose_caller_leaves_closes_its_books_and_frees_its_seat() {
    let fixture = Fixture::new();
    let record = fixture.accepted();
    assert_eq!(fixture.counts(BOOKS), [1, 0, 1, 1]);
    assert_eq!((fixture.books.in_flight(), fixture.seats.available_permits()), (1, 0));
    drop(record);
    assert_eq!(fixture.counts(BOOKS), [1, 0, 1, 0]);
    assert_eq!(fixture.value("batchfleet_gateway_answered_total", "cancelled"), 1);
    assert_eq!((fixture.books.in_flight(), fixture.seats.available_permits()), (0, 1));
    assert_eq!(fixture.books.statistics().inference.fail.count, 0);
}

#[tokio::test]
async fn an_answered_request_is_counted_once() {
    let fixture = Fixture::new();
    let mut record = fixture.accepted();
    let timing = Timing { batch_rows: 3, ..Timing::default() };
    let outcome = Ok(Vec::new());
    let id = RequestId::random();
    record.ended(&Ok(Reply { id, attempt: 0, digest: 0, timing, outcome, pushed: None }));
    // An error while the outputs are encoded changes no count.
    record.failed(&InferError::Misrouted);
    drop(record);
    assert_eq!(fixture.counts(BOOKS), [1, 0, 1, 0]);
    let totals = fixture.books.statistics();
    assert_eq!((totals.inference_count, totals.inference.success.count), (3, 1));
    assert_eq!(totals.inference.fail.count, 0);
}

#[tokio::test]
async fn only_requests_that_were_read_count_as_failures_of_the_model() {
    let fixture = Fixture::new();
    fixture.offered().failed(&InferError::Concurrency);
    assert_eq!(fixture.books.statistics().inference.fail.count, 0);
    let mut record = fixture.offered();
    record.read(1);
    record.failed(&InferError::InFlight);
    assert_eq!(fixture.books.statistics().inference.fail.count, 1);
    assert_eq!(fixture.books.traffic().refused, 1);
}

#[tokio::test]
async fn a_request_for_no_known_model_is_offered_and_refused() {
    let fixture = Fixture::new();
    let error = batchfleet_oip::Problem::model_not_found("none");
    Record::arrive(&fixture.metrics, Trace::off()).failed(&error.into());
    let unknown = [
        ("offered_total", "(unknown)"),
        ("refused_total", "model_not_found"),
        ("offered_total", "m"),
        ("accepted_total", "m"),
    ];
    assert_eq!(fixture.counts(unknown), [1, 1, 0, 0]);
}
