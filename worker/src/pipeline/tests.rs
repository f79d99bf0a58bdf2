//! Tests the serving loop on the memory broker with a paused clock. A task replaces the engine.

mod ahead;
mod claims;
mod faults;
mod follow_ups;
mod linger;
mod parts;
mod sentinel;
mod shaky;

use std::{
    collections::HashMap,
    mem,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use batchfleet_broker::{
    Announcement, Backlog, BatchWish, Broker, BrokerError, Claims, Consumer, Datatype, Delivery,
    EntryId, Failure, GatewayId, GatewayRoles, Inbound, Job, ModelSpec, Priority, Producer,
    QueueName, Release, Replies, Reply, RequestId, Settlement, Tensor, TensorSpec, Timing, Wish,
    WorkerId, WorkerRoles, memory::MemoryBroker,
};
use batchfleet_policy::{BatchMode, BatchPolicy, CostModel, SizeChange};
use batchfleet_service::{metrics::MetricGroup, trace::Tracer};
use prometheus::Registry;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    engine::{EngineError, FinishedRun, Work},
    lengths::RowLengths,
    metrics::{JobOutcome, WorkerMetrics},
    rescue::LastRenewal,
};

const RUN: Duration = Duration::from_millis(100);
/// The drain timeout.
const DRAIN: Duration = Duration::from_secs(45);
/// Batches of more than four rows wider than this, in bytes, run out of memory.
const WIDE: u64 = 20;

fn queue() -> QueueName {
    QueueName::new("m", 1)
}

/// A plan with N = `limit`, for rows of any number of bytes.
fn plan(limit: u32) -> ServingPlan {
    let spec = |name: &str| TensorSpec::new(name, Datatype::Uint8, [-1, -1]);
    ServingPlan {
        spec: Arc::new(ModelSpec {
            queue: queue(),
            platform: String::new(),
            backend: String::new(),
            max_batch: std::num::NonZeroU32::new(64),
            inputs: vec![spec("X")],
            outputs: vec![spec("X")],
        }),
        provider: "cpu",
        memcpy_nodes: 0,
        labels: Arc::default(),
        cost: CostModel::from_profile(&[(1, RUN), (64, RUN)]).unwrap(),
        lengths: RowLengths::default(),
        padding: None,
        policy: BatchPolicy::new(BatchMode::Fixed(limit), 64, RUN),
        linger: Duration::ZERO,
        max_batch_time: Duration::from_secs(10),
        sentinel_interval: Duration::ZERO,
        tracer: Tracer::default(),
        notes: Vec::new(),
        config_lines: Vec::new(),
        size_change: SizeChange::default(),
    }
}

/// Connects a new worker to the queue.
async fn jobs(broker: &MemoryBroker) -> Jobs {
    let roles = broker.worker(queue(), WorkerId::random()).await.unwrap();
    Jobs { claims: roles.claims, consumer: roles.consumer, renewal: LastRenewal::default() }
}

/// A running pipeline, its gateway, and a record of its batches.
struct Bench {
    producer: Arc<dyn Producer>,
    inbox: tokio::sync::Mutex<Box<dyn Replies>>,
    gateway: GatewayId,
    broker: MemoryBroker,
    metrics: ModelMetrics,
    tuner: SharedTuner,
    shutdown: CancellationToken,
    pipeline: JoinHandle<Result<(), WorkerError>>,
    /// For each batch, the rows of each request, followed by the rows of padding.
    ran: mpsc::UnboundedReceiver<Vec<u32>>,
}

/// A row of these bytes makes the model fail, the device fail, or the engine's thread end.
const UNLUCKY: u8 = 13;
const FATAL: u8 = 66;
const KILLER: u8 = 99;
/// A row of these bytes changes the outputs of all rows of its batch to the number of different
/// bytes in the batch.
const MIXING: u8 = 55;

/// The outputs leave out rows of these bytes.
const DROPPED: u8 = 88;

impl Bench {
    async fn start(plan: ServingPlan) -> Self {
        let broker = MemoryBroker::new(1000);
        let jobs = jobs(&broker).await;
        Self::with(plan, broker, jobs, DRAIN).await
    }

    async fn with(
        plan: ServingPlan,
        broker: MemoryBroker,
        jobs: Jobs,
        drain_timeout: Duration,
    ) -> Self {
        let metrics = WorkerMetrics::register(&Registry::new()).unwrap();
        let metrics = metrics.of_model(&queue(), "cpu");
        let gateway = GatewayId::random();
        let GatewayRoles { producer, replies } = broker.gateway(gateway).await.unwrap();
        let inbox = tokio::sync::Mutex::new(replies);
        let (engine, work) = EngineHandle::channel();
        let (running, ran) = mpsc::unbounded_channel();
        tokio::spawn(echo(work, running));
        let shutdown = CancellationToken::new();
        let drain = Drain::new(shutdown.clone(), drain_timeout);
        let pipeline = Pipeline::new(plan, engine, jobs, metrics.clone(), drain);
        let tuner = pipeline.tuner();
        let pipeline = tokio::spawn(pipeline.run());
        Self { producer, inbox, gateway, broker, metrics, tuner, shutdown, pipeline, ran }
    }

    async fn submit(&self, rows: u32, width: u64, ttl: Duration) -> RequestId {
        self.submit_of(7, rows, width, ttl).await
    }

    async fn submit_of(&self, byte: u8, rows: u32, width: u64, ttl: Duration) -> RequestId {
        let data = vec![byte; usize::try_from(u64::from(rows) * width).unwrap()];
        self.submit_data(data, rows, ttl).await
    }

    /// Submits rows of equal width.
    async fn submit_data(&self, data: Vec<u8>, rows: u32, ttl: Duration) -> RequestId {
        let width = data.len() as u64 / u64::from(rows);
        let shape = vec![u64::from(rows), width];
        let datatype = Datatype::Uint8;
        let input = Tensor { name: "X".to_owned(), datatype, shape, data: data.into() };
        let job = Job {
            id: RequestId::random(),
            gateway: self.gateway,
            attempt: 0,
            priority: Priority::Default,
            ttl,
            rows,
            digest: 0,
            inputs: vec![input],
            outputs: Vec::new(),
            trace: None,
            classes: Vec::new(),
            offer: None,
        };
        self.producer.submit(&queue(), &job).await.unwrap();
        job.id
    }

    async fn submit_rows(&self, rows: &[u32]) {
        for &rows in rows {
            self.submit(rows, 1, Duration::from_secs(30)).await;
        }
    }

    async fn replies(&self, count: usize) -> HashMap<RequestId, Reply> {
        let mut inbox = self.inbox.lock().await;
        let mut all = HashMap::new();
        while all.len() < count {
            let Inbound::Replies(replies) = inbox.receive().await else { continue };
            all.extend(replies.into_iter().map(|reply| (reply.id, reply)));
        }
        all
    }

    async fn backlog(&self) -> Backlog {
        self.broker.observer().await.unwrap().backlog(&queue()).await.unwrap()
    }
}

/// Returns the inputs of each batch after [`RUN`], unless a row injects a fault. Batches of more
/// than four rows wider than [`WIDE`] run out of memory.
async fn echo(mut work: mpsc::Receiver<Work>, running: mpsc::UnboundedSender<Vec<u32>>) {
    while let Some(Work { begin, done }) = work.recv().await {
        let Some((mut inputs, slots)) = begin() else { continue };
        let started = Instant::now();
        let requests = slots.of_requests();
        let padding = slots.rows() - requests.iter().sum::<u32>();
        let padding = (padding > 0).then_some(padding);
        drop(running.send(requests.iter().copied().chain(padding).collect()));
        sleep(RUN).await;
        let has = |byte| inputs[0].data.contains(&byte);
        let failed = |text: &str| Err(EngineError::failed(text));
        let outputs = if has(KILLER) {
            return;
        } else if has(FATAL) {
            failed("CUDA failure 700: an illegal memory access was encountered ; GPU=0")
        } else if inputs[0].shape[1] > WIDE && slots.rows() > 4 {
            failed("Failed to allocate memory for requested buffer of size 1024")
        } else if has(UNLUCKY) {
            failed("unlucky")
        } else {
            if has(MIXING) {
                let bytes = &inputs[0].data;
                let different = (0..=u8::MAX).filter(|byte| bytes.contains(byte)).count();
                let different = u8::try_from(different).unwrap();
                inputs[0].data = vec![different; bytes.len()].into();
            }
            if inputs[0].data.contains(&DROPPED) {
                let Tensor { shape, data, .. } = &mut inputs[0];
                let rows = data.chunks(usize::try_from(shape[1]).unwrap());
                let kept: Vec<&[u8]> = rows.filter(|row| row[0] != DROPPED).collect();
                shape[0] = kept.len() as u64;
                *data = kept.concat().into();
            }
            Ok(inputs)
        };
        let (input, infer) = (Duration::ZERO, RUN);
        let (pause, paused) = oneshot::channel();
        let pause = outputs.is_err().then_some(pause);
        drop(done.send(FinishedRun { outputs, slots, started, input, infer, gap: None, pause }));
        drop(paused.await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_does_not_wait_to_fill_a_batch() {
    let bench = Bench::start(plan(8)).await;
    let began = Instant::now();
    bench.submit_rows(&[1]).await;
    bench.replies(1).await;
    assert_eq!(began.elapsed(), RUN);
    assert_eq!(bench.metrics.released(Release::Drained).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn jobs_that_waited_during_a_run_leave_together_but_never_more_than_n_rows() {
    let mut bench = Bench::start(plan(4)).await;
    bench.submit_rows(&[1]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1]);
    bench.submit_rows(&[1, 1, 1, 1, 1, 1]).await;
    bench.replies(7).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 4]);
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 2]);
    assert_eq!(bench.metrics.released(Release::Full).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_while_a_long_batch_runs() {
    let mut bench = Bench::start(plan(4)).await;
    bench.submit_rows(&[1]).await;
    bench.ran.recv().await.unwrap();
    bench.submit_rows(&[1, 1]).await;
    sleep(RUN / 2).await;
    assert_eq!((bench.backlog().await.depth(), bench.backlog().await.in_flight), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn rows_that_were_claimed_but_did_not_fit_lead_a_filled_up_batch() {
    let mut bench = Bench::start(plan(4)).await;
    bench.submit_rows(&[1]).await;
    bench.ran.recv().await.unwrap();
    // The claim expects about one row per job and takes four jobs; 3 + 3 rows do not fit.
    bench.submit_rows(&[3, 3, 1, 1, 1]).await;
    bench.replies(6).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [3]);
    assert_eq!(bench.ran.recv().await.unwrap(), [3, 1]);
    assert_eq!(bench.ran.recv().await.unwrap(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn shapes_that_differ_do_not_share_a_batch() {
    let mut bench = Bench::start(plan(8)).await;
    bench.submit_rows(&[1]).await;
    bench.ran.recv().await.unwrap();
    for width in [2, 3, 2, 3, 3] {
        bench.submit(1, width, Duration::from_secs(30)).await;
    }
    bench.replies(6).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 3]);
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 2]);
    assert_eq!(bench.metrics.released(Release::Shape).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rare_shape_is_overtaken_three_times_and_then_runs_with_all_of_its_shape() {
    let mut bench = Bench::start(plan(4)).await;
    let patience = Duration::from_secs(30);
    bench.submit_rows(&[1]).await;
    bench.ran.recv().await.unwrap();
    // The jobs are claimed four at a time.
    for width in [5, 1, 1, 1, 1, 1, 5, 1, 1, 1, 1, 1, 1, 1, 1] {
        bench.submit(1, width, patience).await;
    }
    let mut sizes = Vec::new();
    for _ in 0..5 {
        sizes.push(bench.ran.recv().await.unwrap().len());
    }
    assert_eq!(sizes, [3, 3, 4, 2, 3], "the fourth is of the rare shape");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_before_the_batch_of_an_urgent_rare_shape() {
    let mut bench = Bench::start(plan(4)).await;
    bench.submit_rows(&[1]).await;
    bench.ran.recv().await.unwrap();
    // The deadline is too near for the job to be overtaken.
    bench.submit(1, 5, RUN * 5 / 2).await;
    bench.submit_rows(&[1, 1, 1, 1]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1]);
    sleep(RUN / 2).await;
    assert_eq!(bench.backlog().await.depth(), 1);
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 4]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_job_is_answered_and_never_run() {
    let mut bench = Bench::start(plan(4)).await;
    bench.submit_rows(&[1]).await;
    bench.ran.recv().await.unwrap();
    let late = bench.submit(1, 1, RUN / 2).await;
    let timely = bench.submit(1, 1, RUN * 2).await;
    let replies = bench.replies(3).await;
    let error = replies[&late].outcome.as_ref().unwrap_err();
    assert_eq!(error.failure, Failure::Expired);
    assert!(replies[&timely].outcome.is_ok());
    assert_eq!(bench.ran.recv().await.unwrap(), [1]);
    assert_eq!(bench.metrics.jobs(JobOutcome::Expired).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_does_not_fit_the_model_is_refused_and_its_neighbours_run() {
    let bench = Bench::start(plan(4)).await;
    let bad = bench.submit(65, 1, Duration::from_secs(30)).await;
    let good = bench.submit(1, 1, Duration::from_secs(30)).await;
    let replies = bench.replies(2).await;
    let error = replies[&bad].outcome.as_ref().unwrap_err();
    assert_eq!(error.failure, Failure::BadInput);
    assert_eq!(error.message, "expected 1 to 64 rows, got 65");
    assert!(replies[&good].outcome.is_ok());
}

#[tokio::test(start_paused = true)]
async fn replies_report_where_the_time_went() {
    let mut bench = Bench::start(plan(4)).await;
    bench.submit_rows(&[1]).await;
    bench.ran.recv().await.unwrap();
    let id = bench.submit(3, 1, Duration::from_secs(30)).await;
    let timing = bench.replies(2).await[&id].timing;
    let release = Some(Release::Drained);
    // The only worker claims the job just before the end of the run.
    let batch_wait = Duration::from_millis(1);
    let (queue, compute_infer) = (RUN.saturating_sub(batch_wait), RUN);
    let timing_of = Timing { queue, batch_wait, compute_infer, ..Timing::default() };
    let expected = Timing { batch_rows: 3, release, ..timing_of };
    assert_eq!(timing, expected);
}

#[tokio::test(start_paused = true)]
async fn shutdown_answers_the_running_batch_and_hands_back_the_rest() {
    let mut bench = Bench::start(plan(4)).await;
    bench.submit_rows(&[3, 3]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [3]);
    bench.submit_rows(&[1, 1]).await;
    bench.shutdown.cancel();
    bench.pipeline.await.unwrap().unwrap();
    assert_eq!(bench.ran.recv().await, None);
    assert_eq!(bench.metrics.jobs(JobOutcome::Ok).get(), 1);
    assert_eq!(bench.metrics.jobs(JobOutcome::HandedBack).get(), 1);
    let backlog = bench.broker.observer().await.unwrap().backlog(&queue()).await.unwrap();
    assert_eq!((backlog.depth(), backlog.in_flight), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn batches_are_padded_to_a_size_the_engine_runs_and_callers_get_their_own_rows() {
    let cost = CostModel::from_profile(&[(2, RUN), (8, RUN * 2)]).unwrap().with_fixed_sizes();
    let mut bench = Bench::start(ServingPlan { cost, ..plan(8) }).await;
    bench.submit_rows(&[1, 2]).await;
    let replies = bench.replies(2).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1, 2, 5]);
    for reply in replies.values() {
        let outputs = reply.outcome.as_ref().unwrap();
        assert!(outputs[0].data.iter().all(|byte| *byte == 7), "{outputs:?}");
        assert_eq!((reply.timing.batch_rows, reply.timing.padded_rows), (3, 5));
        assert_eq!(reply.timing.release, Some(Release::Drained));
    }
    assert_eq!(bench.metrics.padded_rows.get(), 5);
}
