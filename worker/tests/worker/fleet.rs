//! A worker on the memory broker, and its callers.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail the test")]

use std::{collections::HashMap, fs, path::Path, sync::Arc, time::Duration};

use batchfleet_broker::{
    Broker, ClassCount, Datatype, GatewayId, GatewayRoles, Inbound, Job, Priority, Producer,
    QueueName, Replies, Reply, RequestId, Tensor, memory::MemoryBroker,
};
use batchfleet_service::Process;
use batchfleet_worker::{ModelSettings, Worker, WorkerError, WorkerResources, WorkerSettings};
use clap::Parser;
use prometheus::Registry;
use tempfile::TempDir;
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;

/// Longer than any step of these tests takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Creates a model repository from `files`.
pub(crate) fn repository<C: AsRef<[u8]>>(files: &[(&str, C)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

/// Parses `flags` into settings.
pub(crate) fn settings(repository: &Path, flags: &[&str]) -> ModelSettings {
    let repository = repository.to_str().unwrap();
    let program = ["batchfleet-worker", "--model-repository", repository];
    let flags = program.iter().chain(flags);
    let mut settings = WorkerSettings::try_parse_from(flags).unwrap().models;
    settings.ort_dylib_path.get_or_insert_with(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/onnxruntime/libonnxruntime.so")
    });
    settings
}

/// A running worker and its broker.
pub(crate) struct Fleet {
    pub(crate) broker: MemoryBroker,
    pub(crate) registry: Registry,
    pub(crate) shutdown: CancellationToken,
    pub(crate) worker: Worker,
}

impl Fleet {
    /// Starts a worker on a repository of its own.
    pub(crate) async fn start<C: AsRef<[u8]>>(files: &[(&str, C)], flags: &[&str]) -> Self {
        Self::try_start(repository(files).path(), flags).await.unwrap()
    }

    /// Starts a worker, or returns its start-up error.
    pub(crate) async fn try_start(repository: &Path, flags: &[&str]) -> Result<Self, WorkerError> {
        let broker = MemoryBroker::new(100_000);
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let settings = settings(repository, flags);
        let shared = Arc::new(broker.clone());
        let process = Process { registry: registry.clone(), ..Process::default() };
        let resources = WorkerResources::new(&process)?;
        let worker = Worker::start(&settings, shared, &resources, shutdown.clone()).await?;
        assert!(worker.ready());
        Ok(Self { broker, registry, shutdown, worker })
    }

    /// Connects a new gateway.
    pub(crate) async fn caller(&self) -> Caller {
        let gateway = GatewayId::random();
        let GatewayRoles { producer, replies } = self.broker.gateway(gateway).await.unwrap();
        Caller { gateway, producer, inbox: Arc::new(Mutex::new(replies)) }
    }

    /// What the worker announces about how its model is served.
    pub(crate) async fn notes(&self) -> Vec<String> {
        let observer = self.broker.observer().await.unwrap();
        let mut fleet = observer.fleet().await.unwrap();
        fleet.workers.remove(0).announcement.notes
    }

    /// Shuts the worker down and waits until it has stopped.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.worker.join()).await.unwrap().unwrap();
    }
}

/// A gateway that submits jobs and collects the replies.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) gateway: GatewayId,
    pub(crate) producer: Arc<dyn Producer>,
    inbox: Arc<Mutex<Box<dyn Replies>>>,
}

impl Caller {
    /// Submits a job with a deadline in one minute.
    pub(crate) async fn submit(
        &self,
        queue: &QueueName,
        inputs: Vec<Tensor>,
        rows: u32,
    ) -> RequestId {
        self.submit_classes(queue, inputs, rows, Vec::new()).await
    }

    async fn submit_classes(
        &self,
        queue: &QueueName,
        inputs: Vec<Tensor>,
        rows: u32,
        classes: Vec<ClassCount>,
    ) -> RequestId {
        let job = Job {
            id: RequestId::random(),
            gateway: self.gateway,
            attempt: 0,
            priority: Priority::Default,
            ttl: Duration::from_mins(1),
            rows,
            digest: 7,
            inputs,
            outputs: Vec::new(),
            trace: None,
            classes,
            offer: None,
        };
        self.producer.submit(queue, &job).await.unwrap();
        job.id
    }

    /// Submits a job and waits for its reply, while no other job is outstanding.
    pub(crate) async fn ask(&self, queue: &QueueName, inputs: Vec<Tensor>, rows: u32) -> Reply {
        let id = self.submit(queue, inputs, rows).await;
        self.replies(1).await.remove(&id).unwrap()
    }

    /// As [`ask`](Self::ask), for classes of outputs.
    pub(crate) async fn ask_classes(
        &self,
        queue: &QueueName,
        inputs: Vec<Tensor>,
        rows: u32,
        classes: Vec<ClassCount>,
    ) -> Reply {
        let id = self.submit_classes(queue, inputs, rows, classes).await;
        self.replies(1).await.remove(&id).unwrap()
    }

    /// Waits for `count` replies.
    pub(crate) async fn replies(&self, count: usize) -> HashMap<RequestId, Reply> {
        let mut inbox = self.inbox.lock().await;
        let mut all = HashMap::new();
        while all.len() < count {
            match timeout(PATIENCE, inbox.receive()).await.unwrap() {
                Inbound::Replies(replies) => {
                    all.extend(replies.into_iter().map(|reply| (reply.id, reply)));
                }
                Inbound::Interrupted(_) => panic!("the memory broker is never interrupted"),
            }
        }
        all
    }
}

/// A tensor with the bytes of `data`.
pub(crate) fn tensor(name: &str, datatype: Datatype, shape: &[u64], data: Vec<u8>) -> Tensor {
    Tensor { name: name.to_owned(), datatype, shape: shape.to_vec(), data: data.into() }
}

/// A tensor of floats.
pub(crate) fn floats(name: &str, shape: &[u64], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, Datatype::Fp32, shape, bytes)
}

/// The queue of version 1 of the model "m".
pub(crate) fn queue() -> QueueName {
    QueueName::new("m", 1)
}
