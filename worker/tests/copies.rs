//! Counts the memory that batches need. It is in a program of its own, because the allocator counts for
//! the whole process.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::{collections::HashSet, fs, sync::Arc, time::Duration};

use batchfleet_broker::{
    Broker, Datatype, GatewayId, GatewayRoles, Inbound, Job, Priority, Producer, QueueName,
    Replies, RequestId, Tensor, memory::MemoryBroker,
};
use batchfleet_heap::CountingAllocator;
use batchfleet_service::Process;
use batchfleet_worker::{Worker, WorkerResources, WorkerSettings};
use bytes::Bytes;
use clap::Parser;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Longer than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Bytes of a row: an image of 224 · 224 pixels in FP32.
const ROW: usize = 602_112;
const ECHO: &str = "backend: \"batchfleet_echo\"\nmax_batch_size: 8\n\
    input [{ name: \"IMAGE\" data_type: TYPE_UINT8 dims: [ -1 ] }]\n\
    input [{ name: \"MARK\" data_type: TYPE_UINT8 dims: [ 8 ] }]\n\
    output [{ name: \"SAME\" data_type: TYPE_UINT8 dims: [ -1 ] }]\n\
    output [{ name: \"MARKED\" data_type: TYPE_UINT8 dims: [ 8 ] }]\n\
    parameters { key: \"batch_ms\" value { string_value: \"5\" } }\n";

struct Caller {
    gateway: GatewayId,
    producer: Arc<dyn Producer>,
    replies: Box<dyn Replies>,
}

impl Caller {
    /// Submits jobs whose images share their bytes, and waits for all answers.
    async fn ask(&mut self, jobs: u64, image: &Bytes) {
        let mut marks = HashSet::new();
        for mark in 0..jobs {
            let tensor = |name: &str, data: Bytes| Tensor {
                name: name.to_owned(),
                datatype: Datatype::Uint8,
                shape: vec![1, data.len() as u64],
                data,
            };
            let mark = Bytes::from(mark.to_le_bytes().to_vec());
            marks.insert(mark.clone());
            let job = Job {
                id: RequestId::random(),
                gateway: self.gateway,
                attempt: 0,
                priority: Priority::Default,
                ttl: Duration::from_mins(5),
                rows: 1,
                digest: 0,
                inputs: vec![tensor("IMAGE", image.clone()), tensor("MARK", mark)],
                outputs: vec!["MARKED".to_owned()],
                trace: None,
                classes: Vec::new(),
                offer: None,
            };
            self.producer.submit(&QueueName::new("m", 1), &job).await.unwrap();
        }
        while !marks.is_empty() {
            let Inbound::Replies(replies) =
                timeout(PATIENCE, self.replies.receive()).await.unwrap()
            else {
                continue;
            };
            for reply in replies {
                let outputs = reply.outcome.unwrap();
                assert!(marks.remove(&outputs[0].data), "a mark of another request");
            }
        }
    }
}

/// The join copies each byte of an input once, into memory of an earlier batch. Any other copy would
/// need new memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_byte_of_an_input_is_copied_at_most_once_after_the_claim() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("m/1")).unwrap();
    fs::write(folder.path().join("m/config.pbtxt"), ECHO).unwrap();
    let repository = folder.path().to_str().unwrap();
    let flags = ["batchfleet-worker", "--model-repository", repository, "--batch", "8"];
    let settings = WorkerSettings::try_parse_from(flags).unwrap().models;
    let broker = MemoryBroker::new(1000);
    let shutdown = CancellationToken::new();
    let shared = Arc::new(broker.clone());
    let resources = WorkerResources::new(&Process::default()).unwrap();
    let worker = Worker::start(&settings, shared, &resources, shutdown.clone()).await.unwrap();
    let gateway = GatewayId::random();
    let GatewayRoles { producer, replies } = broker.gateway(gateway).await.unwrap();
    let mut caller = Caller { gateway, producer, replies };

    let image = Bytes::from(vec![7; ROW]);
    // The first batches get the memory that later batches use.
    caller.ask(64, &image).await;
    let (jobs, before) = (400, CountingAllocator::allocated());
    caller.ask(jobs, &image).await;
    let allocated = CountingAllocator::allocated() - before;
    let inputs = jobs * ROW as u64;
    assert!(allocated < inputs / 4, "{allocated} new bytes for {inputs} bytes of inputs");
    shutdown.cancel();
    timeout(PATIENCE, worker.join()).await.unwrap().unwrap();
}
