use batchfleet_broker::{Batching, Datatype, QueueName, RequestId, TensorSpec, WorkerId};
use prometheus::Registry;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    books::{Admitted, Record},
    metrics::GatewayMetrics,
    trace::Trace,
};

/// A model of texts, whose rows cost a unit for each eight bytes.
fn texts() -> Model {
    let spec = ModelSpec {
        queue: QueueName::new("m", 1),
        platform: String::new(),
        backend: String::new(),
        max_batch: std::num::NonZeroU32::new(64),
        inputs: vec![TensorSpec::new("ids", Datatype::Uint8, [-1, -1])],
        outputs: Vec::new(),
    };
    // A row of the usual length, 64 bytes, takes 9 ms, and each further one 8 ms.
    let batching = Batching {
        curve: vec![(1, 9.0), (64, 513.0)],
        full_load_n: 4,
        slo_ms: 100.0,
        row_units: 8.0,
        units_by_length: vec![(8, 1.0), (512, 64.0)],
        ..Batching::default()
    };
    let worker = Announcement {
        capacity: 100.0,
        batching: Some(batching),
        ..Announcement::new(WorkerId(1), spec.clone())
    };
    let metrics = GatewayMetrics::new(&Registry::new()).unwrap();
    let books = ModelBooks::new(spec.queue.clone(), metrics.for_model(&spec.queue));
    let model = Model::new(spec, books);
    model.update([&worker].into_iter(), None);
    model
}

/// The units of a request.
fn units(model: &Model, rows: u32, length: u64) -> f64 {
    let data = vec![0; usize::try_from(length * u64::from(rows)).unwrap()].into();
    let (name, shape) = ("ids".to_owned(), vec![rows.into(), length]);
    model.units(rows, &[Tensor { name, datatype: Datatype::Uint8, shape, data }])
}

/// The predicted wait of a request of one row.
fn wait(model: &Model, length: u64) -> u128 {
    let units = units(model, 1, length);
    model.ahead(RequestWork { priority: Priority::Default, rows: 1, units }).wait().as_millis()
}

fn running() -> Backlog {
    Backlog { in_flight: 1, added: 1, ..Backlog::default() }
}

#[test]
fn a_long_row_is_expected_to_take_as_long_as_it_is() {
    let model = texts();
    model.observe(Duration::from_secs(1), running());
    // The row that runs takes 10 ms of the fleet's time.
    assert_eq!((wait(&model, 64), wait(&model, 8), wait(&model, 512)), (19, 19, 75));
}

#[test]
fn a_long_row_to_an_idle_fleet_takes_its_time_and_a_short_one_none() {
    let model = texts();
    model.observe(Duration::from_secs(1), Backlog::default());
    assert_eq!((wait(&model, 64), wait(&model, 512)), (0, 65));
}

#[tokio::test(start_paused = true)]
async fn a_long_row_to_a_fleet_that_is_idle_for_long_may_take_less_time_than_announced() {
    let model = texts();
    let idle = Backlog { added: 7, ..Backlog::default() };
    for second in 1..=10 {
        // The first poll finds seven jobs that were added.
        model.observe(Duration::from_secs(second), idle);
        assert_eq!(wait(&model, 512), 65, "after {second} s");
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(wait(&model, 512), 32);
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(wait(&model, 512), 16);
    model.observe(Duration::from_secs(42), Backlog { added: 8, ..idle });
    assert_eq!(wait(&model, 512), 65, "a request has come");
}

#[test]
fn requests_count_by_their_rows_until_they_are_answered() {
    let model = texts();
    let metrics = GatewayMetrics::new(&Registry::new()).unwrap();
    let accepted = |length| {
        let mut record = Record::arrive(&metrics, Trace::off());
        record.offered(&model.books, false);
        let units = units(&model, 64, length);
        let work = RequestWork { priority: Priority::Default, rows: 64, units };
        let seat = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        record.accepted(RequestId::random(), Admitted { _seat: seat, work });
        record
    };
    // 64 rows of eight units, of which the fleet runs 800 per second, and 64 of one unit.
    let (long, short) = (accepted(64), accepted(8));
    let claimed = Backlog { in_flight: 2, added: 2, ..Backlog::default() };
    model.observe(Duration::from_secs(1), claimed);
    assert_eq!(wait(&model, 64), 640 + 80 + 9);
    drop(long);
    assert_eq!(wait(&model, 64), 80 + 9);
    drop(short);
    assert_eq!(wait(&model, 64), 0, "none of another gateway was claimed");
}

#[test]
fn claimed_requests_of_other_gateways_count_as_usual_ones() {
    let model = texts();
    let others = Backlog { waiting: [0, 2, 6], in_flight: 4, added: 12, ..Backlog::default() };
    model.observe(Duration::from_secs(1), others);
    // Twelve rows, of which three quarters of a lower class. Two of the others join the batch.
    assert_eq!(wait(&model, 64), 30 + 25);
}

#[test]
fn a_burst_counts_at_the_other_gateways_too_until_the_next_poll() {
    let model = texts();
    let metrics = GatewayMetrics::new(&Registry::new()).unwrap();
    let accepted = || {
        let mut record = Record::arrive(&metrics, Trace::off());
        record.offered(&model.books, false);
        let units = units(&model, 64, 64);
        let work = RequestWork { priority: Priority::Default, rows: 64, units };
        let seat = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        record.accepted(RequestId::random(), Admitted { _seat: seat, work });
        record
    };
    // Two jobs of others for each one of this gateway, all of which have ended.
    model.observe(Duration::from_secs(1), Backlog::default());
    drop((accepted(), accepted()));
    model.observe(Duration::from_secs(2), Backlog { added: 6, ..Backlog::default() });
    assert_eq!(wait(&model, 64), 0);
    // A hundred rows per second, and a batch of four that takes 33 ms.
    let _request = accepted();
    assert_eq!(wait(&model, 64), 3 * 640 + 33);
    let alone = Backlog { added: 7, in_flight: 1, ..Backlog::default() };
    model.observe(Duration::from_millis(2200), alone);
    assert_eq!(wait(&model, 64), 640 + 9, "the poll tells that the others have added nothing");
}

#[test]
fn a_request_in_parts_may_wait_for_one_more_than_its_share() {
    let model = texts();
    let of = |rows| {
        let units = units(&model, rows, 64);
        let work = RequestWork { priority: Priority::Default, rows, units };
        model.ahead(work).wait().as_millis()
    };
    model.observe(Duration::from_secs(1), Backlog::default());
    assert_eq!(of(64), 513, "no worker has any");
    model.observe(Duration::from_secs(2), Backlog { in_flight: 1, added: 1, ..Backlog::default() });
    // The only worker has one. A batch of four takes 33 ms.
    assert_eq!(of(64) - of(4), 2 * 513 - 33);
}

#[test]
fn load_is_counted_in_rows_of_the_usual_length() {
    let model = texts();
    for _ in 0..2000 {
        wait(&model, 128);
    }
    model.observe(Duration::from_secs(1), running());
    let rows = model.books.rows_per_request();
    assert!((rows - 2.0).abs() < 0.01, "{rows}");
}

#[test]
fn a_queue_has_requests_while_any_gateway_adds_to_it_or_jobs_are_in_it() {
    let model = texts();
    assert!(!model.has_requests());
    let observe = |second, backlog| model.observe(Duration::from_secs(second), backlog);
    observe(1, running());
    assert!(model.has_requests(), "one is in flight");
    observe(2, Backlog { added: 3, ..Backlog::default() });
    assert!(model.has_requests(), "two have come and gone");
    observe(3, Backlog { added: 3, ..Backlog::default() });
    assert!(!model.has_requests());
}
