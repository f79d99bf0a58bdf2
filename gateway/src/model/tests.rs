use batchfleet_broker::{Batching, Datatype, QueueName, TensorSpec, WorkerId};
use prometheus::Registry;

use super::*;
use crate::metrics::GatewayMetrics;

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

/// The predicted wait of a request of one row.
fn wait(model: &Model, length: u64) -> u128 {
    let data = vec![0; usize::try_from(length).unwrap()].into();
    let name = "ids".to_owned();
    let input = Tensor { name, datatype: Datatype::Uint8, shape: vec![1, length], data };
    let cost = model.cost(1, &[input]);
    model.ahead(Priority::Default, cost).wait().as_millis()
}

fn running() -> Backlog {
    Backlog { in_flight: 1, added: 1, ..Backlog::default() }
}

#[test]
fn a_long_row_is_expected_to_take_as_long_as_it_is() {
    let model = texts();
    model.observe(Duration::from_secs(1), running());
    assert_eq!((wait(&model, 64), wait(&model, 8), wait(&model, 512)), (9, 9, 65));
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
