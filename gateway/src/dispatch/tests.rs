//! A dispatcher on the in-memory broker, with the test as its worker.

use std::time::Duration;

use batchfleet_broker::{
    Announcement, Broker, Claims, Consumer, Datatype, Delivery, Failure, FleetSnapshot, ModelSpec,
    ObservedWorker, Observer, OfferKey, Priority, Promise, Pushed, QueueName, Reply, ReplyError,
    RequestId, Settlement, Tensor, TensorSpec, Timing, WorkerId, WorkerRoles, memory::MemoryBroker,
    offer::Item, wire,
};
use bytes::Bytes;
use prometheus::{Registry, proto::Metric};

use super::*;
use crate::{ask::put, books::Record, catalog::Catalog, tensor_port::OpenRequests, trace::Trace};

struct Fixture {
    dispatcher: Arc<Dispatcher>,
    model: Arc<Model>,
    claims: tokio::sync::Mutex<Box<dyn Claims>>,
    worker: Arc<dyn Consumer>,
    observer: Arc<dyn Observer>,
    mailbox: Mailbox,
    draining: CancellationToken,
    registry: Registry,
    metrics: GatewayMetrics,
    _tasks: LongTasks,
}

impl Fixture {
    async fn with_seats(seats: usize) -> Self {
        let broker = MemoryBroker::new(100);
        let registry = Registry::new();
        let metrics = GatewayMetrics::new(&registry).unwrap();
        let catalog = Catalog::new(metrics.clone(), Duration::from_mins(10));
        let spec = spec();
        let id = WorkerId::random();
        let workers = vec![ObservedWorker::live(Announcement::new(id, spec.clone()))];
        catalog.update(FleetSnapshot { workers, promises: Vec::new() });
        let roles = broker.worker(spec.queue.clone(), id).await.unwrap();
        let WorkerRoles { claims, consumer: worker, .. } = roles;
        let claims = tokio::sync::Mutex::new(claims);
        let gateway = broker.gateway(GatewayId(7)).await.unwrap();
        let draining = CancellationToken::new();
        let (dispatcher, tasks) =
            Dispatcher::start(GatewayId(7), gateway, seats, draining.clone(), &metrics);
        let dispatcher = Arc::new(dispatcher);
        let (mailbox, emptied) = Mailbox::open();
        tokio::spawn(emptied);
        let model = catalog.find("m", None, |_| true).unwrap();
        let observer = broker.observer().await.unwrap();
        Self {
            dispatcher,
            model,
            claims,
            worker,
            observer,
            mailbox,
            draining,
            registry,
            metrics,
            _tasks: tasks,
        }
    }

    /// Sends a request with this number as its input.
    fn ask(&self, number: u32) -> tokio::task::JoinHandle<Result<Reply, InferError>> {
        let (dispatcher, model) = (self.dispatcher.clone(), self.model.clone());
        let mailbox = self.mailbox.clone();
        let metrics = self.metrics.clone();
        tokio::spawn(async move {
            answer_to(&dispatcher, &metrics, &model, question(number), &mailbox).await
        })
    }

    async fn answer(&self, delivery: Delivery, outcome: Result<Vec<Tensor>, ReplyError>) -> Reply {
        let reply = Reply {
            id: delivery.job.id,
            attempt: delivery.job.attempt,
            digest: delivery.job.digest,
            timing: Timing::default(),
            outcome,
            pushed: None,
        };
        self.settle(&delivery, reply.clone()).await;
        reply
    }

    async fn settle(&self, delivery: &Delivery, reply: Reply) {
        let gateway = delivery.job.gateway;
        let settlement = Settlement { entry: delivery.entry, gateway, reply };
        self.worker.settle(vec![settlement]).await.unwrap();
    }

    /// Claims the one job in the queue.
    async fn claim(&self) -> Delivery {
        let claimed = self.claims.lock().await.claim(1).await.unwrap().pop();
        claimed.expect("a job within a second")
    }

    fn metric(&self, name: &str, label: &str) -> i64 {
        metric(&self.registry, name, label)
    }
}

/// Sends `question`, records the request in the books, and returns the result.
pub(super) async fn answer_to(
    dispatcher: &Dispatcher,
    metrics: &GatewayMetrics,
    model: &Arc<Model>,
    question: JobRequest,
    mailbox: &Mailbox,
) -> InferResult {
    let mut record = Record::arrive(metrics, Trace::off());
    record.offered(&model.books, false);
    record.read(question.rows);
    let result = put(dispatcher, &mut record, model, question, mailbox).await;
    result.inspect_err(|error| record.failed(error))
}

/// The sum of a counter or gauge over the series with this label value; over all series if "".
pub(super) fn metric(registry: &Registry, name: &str, label: &str) -> i64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).unwrap();
    let metrics = family.get_metric().iter().filter(|metric| {
        label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
    });
    #[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
    let value = |m: &Metric| (m.get_counter().get_value() + m.get_gauge().get_value()) as i64;
    metrics.map(value).sum()
}

pub(super) fn spec() -> ModelSpec {
    let tensor = |name: &str| TensorSpec::new(name, Datatype::Uint32, [-1, 1]);
    ModelSpec {
        queue: QueueName::new("m", 1),
        platform: "test".to_owned(),
        backend: "test".to_owned(),
        max_batch: std::num::NonZeroU32::new(8),
        inputs: vec![tensor("in")],
        outputs: vec![tensor("out")],
    }
}

pub(super) fn tensor(number: u32) -> Tensor {
    let data = Bytes::copy_from_slice(&number.to_le_bytes());
    Tensor { name: "in".to_owned(), datatype: Datatype::Uint32, shape: vec![1, 1], data }
}

pub(super) fn question(number: u32) -> JobRequest {
    let inputs = vec![tensor(number)];
    JobRequest {
        id: RequestId::random(),
        digest: wire::digest(&inputs),
        inputs,
        priority: Priority::Default,
        rows: 1,
        outputs: Vec::new(),
        trace: None,
        classes: Vec::new(),
        deadline: Instant::now() + Duration::from_secs(5),
    }
}

#[tokio::test]
async fn each_caller_gets_its_own_answer_whatever_the_order() {
    let fleet = Fixture::with_seats(10).await;
    let asked = [fleet.ask(1), fleet.ask(2), fleet.ask(3)];
    let mut deliveries = Vec::new();
    while deliveries.len() < asked.len() {
        deliveries.push(fleet.claim().await);
    }
    while let Some(delivery) = deliveries.pop() {
        let inputs = delivery.job.inputs.clone();
        fleet.answer(delivery, Ok(inputs)).await;
    }
    for (asked, byte) in asked.into_iter().zip(1..) {
        assert_eq!(asked.await.unwrap().unwrap().outcome.unwrap(), [tensor(byte)]);
    }
    assert_eq!(fleet.metric("batchfleet_gateway_accepted_total", "m"), 3);
    assert_eq!(fleet.metric("batchfleet_gateway_answered_total", "ok"), 3);
    assert_eq!(fleet.metric("batchfleet_gateway_in_flight", "m"), 0);
}

#[tokio::test]
async fn an_answer_computed_from_another_input_is_never_delivered() {
    let fleet = Fixture::with_seats(10).await;
    let asked = fleet.ask(1);
    let delivery = fleet.claim().await;
    let reply = Reply {
        id: delivery.job.id,
        attempt: 0,
        digest: delivery.job.digest + 1,
        timing: Timing::default(),
        outcome: Ok(vec![tensor(2)]),
        pushed: None,
    };
    fleet.settle(&delivery, reply).await;
    assert!(matches!(asked.await.unwrap(), Err(InferError::Misrouted)));
    assert_eq!(fleet.metric("batchfleet_gateway_misrouted_total", ""), 1);
}

#[tokio::test]
async fn a_duplicate_answer_is_counted_and_dropped() {
    let fleet = Fixture::with_seats(10).await;
    let asked = fleet.ask(1);
    let delivery = fleet.claim().await;
    let reply = fleet.answer(delivery, Ok(vec![tensor(1)])).await;
    assert!(asked.await.unwrap().is_ok());
    fleet.dispatcher.resolver.resolve(reply);
    assert_eq!(fleet.metric("batchfleet_gateway_unclaimed_replies_total", ""), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_ends_at_its_deadline_and_leaves_the_queue() {
    let fleet = Fixture::with_seats(10).await;
    let asked = Instant::now();
    assert!(matches!(fleet.ask(1).await.unwrap(), Err(InferError::Deadline)));
    assert_eq!(asked.elapsed().as_secs(), 5);
    assert_eq!(fleet.metric("batchfleet_gateway_answered_total", "expired"), 1);
    while fleet.observer.backlog(&spec().queue).await.unwrap().depth() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_job_of_a_caller_that_leaves_is_withdrawn() {
    let fleet = Fixture::with_seats(10).await;
    let asked = fleet.ask(1);
    while fleet.observer.backlog(&spec().queue).await.unwrap().depth() == 0 {
        tokio::task::yield_now().await;
    }
    asked.abort();
    while fleet.observer.backlog(&spec().queue).await.unwrap().depth() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fleet.metric("batchfleet_gateway_answered_total", "cancelled"), 1);
    assert_eq!(fleet.metric("batchfleet_gateway_in_flight", "m"), 0);
}

#[tokio::test]
async fn no_more_requests_are_admitted_than_there_are_seats_and_none_while_draining() {
    let fleet = Fixture::with_seats(1).await;
    let first = fleet.ask(1);
    let delivery = fleet.claim().await;
    assert!(matches!(fleet.ask(2).await.unwrap(), Err(InferError::InFlight)));
    fleet.draining.cancel();
    assert!(matches!(fleet.ask(3).await.unwrap(), Err(InferError::Draining)));
    fleet.answer(delivery, Ok(vec![tensor(1)])).await;
    assert!(first.await.unwrap().is_ok());
    assert_eq!(fleet.metric("batchfleet_gateway_accepted_total", "m"), 1);
}

#[tokio::test]
async fn the_error_of_a_model_is_an_answer() {
    let fleet = Fixture::with_seats(10).await;
    let asked = fleet.ask(1);
    let delivery = fleet.claim().await;
    let error = ReplyError { failure: Failure::Model, message: "no".to_owned() };
    fleet.answer(delivery, Err(error.clone())).await;
    assert_eq!(asked.await.unwrap().unwrap().outcome, Err(error));
    assert_eq!(fleet.metric("batchfleet_gateway_answered_total", "model_error"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_for_a_model_without_workers_waits_for_a_promised_worker() {
    let fixture = Fixture::with_seats(10).await;
    let promised = Announcement::new(WorkerId(0), spec());
    let promise = Promise { expected: promised, holds: true, retracted: false };
    fixture.model.update([].iter(), Some(&promise));
    assert!(!fixture.model.is_ready());
    let asked = fixture.ask(7);
    let delivery = fixture.claim().await;
    let expected = fixture.answer(delivery, Ok(Vec::new())).await;
    assert_eq!(asked.await.unwrap().unwrap(), expected);

    fixture.model.update([].iter(), None);
    let refused = fixture.ask(8).await.unwrap();
    assert!(matches!(refused, Err(InferError::NoWorkers(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_deleted_fleet_are_refused_except_those_that_a_worker_holds() {
    let fixture = Fixture::with_seats(10).await;
    let retraction =
        Promise { expected: Announcement::new(WorkerId(0), spec()), holds: false, retracted: true };
    let held = fixture.ask(1);
    let delivery = fixture.claim().await;
    let handed_back = fixture.ask(2);
    let returned = fixture.claim().await;
    let waiting = fixture.ask(3);
    while fixture.observer.backlog(&spec().queue).await.unwrap().depth() == 0 {
        tokio::task::yield_now().await;
    }
    let living = [Announcement::new(WorkerId(1), spec())];
    // While a worker lives, the requests wait for it.
    fixture.model.update(living.iter(), Some(&retraction));
    assert!(!fixture.model.is_retracted());
    fixture.model.update([].iter(), Some(&retraction));
    let began = Instant::now();
    let refused = waiting.await.unwrap();
    assert!(matches!(refused, Err(InferError::FleetDeleted(_))), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(2));

    // The worker shuts down: it answers one of its jobs, and hands back the other.
    fixture.worker.hand_back(vec![returned]).await.unwrap();
    let refused = handed_back.await.unwrap();
    assert!(matches!(refused, Err(InferError::FleetDeleted(_))), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(4));
    let expected = fixture.answer(delivery, Ok(Vec::new())).await;
    assert_eq!(held.await.unwrap().unwrap(), expected);
    assert_eq!(fixture.metric("batchfleet_gateway_answered_total", "unavailable"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_a_worker_dropped_is_sent_again_unnoticed_by_its_caller() {
    let fleet = Fixture::with_seats(10).await;
    let asked = fleet.ask(1);
    let delivery = fleet.claim().await;
    let unawaited = ReplyError { failure: Failure::Unawaited, message: String::new() };
    fleet.answer(delivery, Err(unawaited)).await;
    let delivery = fleet.claim().await;
    assert_eq!(delivery.job.attempt, 1);
    fleet.answer(delivery, Ok(vec![tensor(1)])).await;
    assert!(asked.await.unwrap().unwrap().outcome.is_ok());
    assert_eq!(fleet.metric("batchfleet_gateway_resubmissions_total", ""), 1);
}

#[tokio::test(start_paused = true)]
async fn inputs_that_a_worker_could_not_fetch_are_sent_with_the_job_for_a_while() {
    let fleet = Fixture::with_seats(10).await;
    let worker = Announcement::new(WorkerId::random(), spec());
    let fetching = Announcement { fetches: true, ..worker.clone() };
    fleet.model.update([&fetching].into_iter(), None);
    let offered = fleet.dispatcher.offer_inputs(1, "0.0.0.0:8090".parse().unwrap(), 100);
    let answered = async |number, delivery: Delivery, asked: tokio::task::JoinHandle<_>| {
        fleet.answer(delivery, Ok(vec![tensor(number)])).await;
        let answer: Result<Reply, InferError> = asked.await.unwrap();
        assert_eq!(answer.unwrap().outcome.unwrap(), [tensor(number)]);
    };
    // The address is not known yet.
    let asked = fleet.ask(1);
    let delivery = fleet.claim().await;
    assert_eq!(delivery.job.offer, None);
    answered(1, delivery, asked).await;

    fleet.dispatcher.reached_at([10, 0, 0, 1].into());
    let asked = fleet.ask(2);
    let delivery = fleet.claim().await;
    let offer = delivery.job.offer.clone().unwrap();
    assert_eq!(offer.address, "10.0.0.1:8090".parse().unwrap());
    let item = Item { id: delivery.job.id, key: offer.key };
    assert_eq!(offered.find(item).unwrap().inputs, [tensor(2)]);
    assert!(offered.find(Item { key: OfferKey(1), ..item }).is_none());
    let unfetched = ReplyError { failure: Failure::Unfetched, message: String::new() };
    fleet.answer(delivery, Err(unfetched)).await;
    let delivery = fleet.claim().await;
    assert_eq!((delivery.job.attempt, &delivery.job.offer), (1, &None));
    assert!(offered.find(item).is_none(), "the key is not valid any more");
    answered(2, delivery, asked).await;
    assert_eq!(fleet.metric("batchfleet_gateway_tensors_unfetched_total", ""), 1);

    for (pause, offers) in [(29, false), (2, true)] {
        tokio::time::sleep(Duration::from_secs(pause)).await;
        let asked = fleet.ask(3);
        let delivery = fleet.claim().await;
        assert_eq!(delivery.job.offer.is_some(), offers);
        let item = Item { id: delivery.job.id, key: OfferKey(0) };
        answered(3, delivery, asked).await;
        assert!(offered.find(item).is_none(), "the request has ended");
    }
    // One worker that does not fetch suffices.
    fleet.model.update([&fetching, &worker].into_iter(), None);
    let asked = fleet.ask(4);
    let delivery = fleet.claim().await;
    assert_eq!(delivery.job.offer, None);
    answered(4, delivery, asked).await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_completed_with_the_outputs_that_were_pushed_before() {
    let fleet = Fixture::with_seats(10).await;
    let worker = Announcement::new(WorkerId::random(), spec());
    let fetching = Announcement { fetches: true, ..worker };
    fleet.model.update([&fetching].into_iter(), None);
    let address = "10.0.0.1:8090".parse().unwrap();
    let requests = fleet.dispatcher.offer_inputs(1, address, 4 << 10);
    let outputs = vec![tensor(7), tensor(8)];
    let data: Bytes = outputs.iter().flat_map(|output| output.data.to_vec()).collect();
    let pushed = Pushed::of(&outputs);
    let lacking = |tensor: &Tensor| Tensor { data: Bytes::new(), ..tensor.clone() };
    let reply = |delivery: &Delivery, pushed: &Pushed| Reply {
        id: delivery.job.id,
        attempt: delivery.job.attempt,
        digest: delivery.job.digest,
        timing: Timing::default(),
        outcome: Ok(outputs.iter().map(lacking).collect()),
        pushed: Some(pushed.clone()),
    };
    let item = |delivery: &Delivery| {
        let key = delivery.job.offer.as_ref().unwrap().key;
        Item { id: delivery.job.id, key }
    };
    let asked = fleet.ask(1);
    let delivery = fleet.claim().await;
    let room = requests.room(item(&delivery), 8).unwrap();
    assert!(requests.room(Item { key: OfferKey(1), ..item(&delivery) }, 8).is_none());
    assert!(requests.room(item(&delivery), 5 << 10).is_none(), "too large");
    requests.put(item(&delivery), data.clone(), room);
    assert!(requests.room(item(&delivery), 8).is_none(), "taken already");
    fleet.settle(&delivery, reply(&delivery, &pushed)).await;
    assert_eq!(asked.await.unwrap().unwrap().outcome.unwrap(), outputs);

    // Outputs that are missing, and those that are not what the worker has computed.
    let other = Pushed { digest: pushed.digest + 1, ..pushed.clone() };
    for (is_put, pushed) in [(false, &pushed), (true, &other)] {
        let asked = fleet.ask(2);
        let delivery = fleet.claim().await;
        if is_put {
            let room = requests.room(item(&delivery), 8).unwrap();
            requests.put(item(&delivery), data.clone(), room);
        }
        fleet.settle(&delivery, reply(&delivery, pushed)).await;
        let delivery = fleet.claim().await;
        assert_eq!((delivery.job.attempt, &delivery.job.offer), (1, &None));
        fleet.answer(delivery, Ok(vec![tensor(9)])).await;
        assert_eq!(asked.await.unwrap().unwrap().outcome.unwrap(), [tensor(9)]);
        tokio::time::sleep(Duration::from_secs(31)).await;
    }
}
