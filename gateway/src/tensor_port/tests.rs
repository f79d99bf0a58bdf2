use std::net::Ipv4Addr;

use batchfleet_broker::{
    Datatype, GatewayId, Offer, OfferKey, Priority, RequestId, Tensor,
    offer::{encode_fetch, encode_push},
    wire,
};
use parking_lot::Mutex;
use prometheus::Registry;
use proptest::prelude::*;
use tokio::{
    io::{DuplexStream, duplex},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};

use super::*;

fn job(number: u128, bytes: usize) -> Job {
    let input = Tensor {
        name: "x".to_owned(),
        datatype: Datatype::Uint8,
        shape: vec![1, bytes as u64],
        data: vec![number.to_le_bytes()[0]; bytes].into(),
    };
    let inputs = vec![input.clone(), input];
    let offer = Some(Box::new(Offer::of(&inputs, (Ipv4Addr::LOCALHOST, 1).into())));
    Job {
        id: RequestId(number),
        gateway: GatewayId(1),
        attempt: 0,
        priority: Priority::Default,
        ttl: Duration::from_secs(1),
        rows: 1,
        digest: wire::digest(&inputs),
        inputs,
        outputs: Vec::new(),
        trace: None,
        classes: Vec::new(),
        offer,
    }
}

/// The requests of a gateway, and the outputs that were pushed.
#[derive(Clone)]
struct Requests {
    jobs: Arc<[Arc<Job>]>,
    room: Arc<Semaphore>,
    outputs: Arc<Mutex<Vec<(RequestId, Bytes)>>>,
}

impl Requests {
    fn of(jobs: &[Job]) -> Self {
        let jobs = jobs.iter().cloned().map(Arc::new).collect();
        Self { jobs, room: Arc::new(Semaphore::new(1_000_000)), outputs: Arc::default() }
    }
}

impl OpenRequests for Requests {
    fn find(&self, Item { id, key }: Item) -> Option<Arc<Job>> {
        let is_wanted = |job: &&Arc<Job>| {
            job.id == id && job.offer.as_ref().is_some_and(|offer| offer.key == key)
        };
        self.jobs.iter().find(is_wanted).cloned()
    }

    fn room(&self, item: Item, bytes: u64) -> Option<OwnedSemaphorePermit> {
        self.find(item)?;
        Arc::clone(&self.room).try_acquire_many_owned(bytes.try_into().ok()?).ok()
    }

    fn put(&self, item: Item, data: Bytes, _room: OwnedSemaphorePermit) {
        self.outputs.lock().push((item.id, data));
    }
}

fn item(job: &Job) -> Item {
    Item { id: job.id, key: job.offer.as_ref().unwrap().key }
}

fn request(jobs: &[Job]) -> Vec<u8> {
    encode_fetch(jobs.iter().map(item))
}

fn metrics() -> TensorMetrics {
    use batchfleet_service::metrics::MetricGroup;
    TensorMetrics::register(&Registry::new()).unwrap()
}

/// A connection of a worker to a gateway with these jobs; the pipe holds `pipe` bytes.
fn connect(jobs: &[Job], pipe: usize) -> (DuplexStream, JoinHandle<io::Result<()>>, TensorMetrics) {
    let (worker, gateway) = duplex(pipe);
    let (requests, metrics) = (Requests::of(jobs), metrics());
    let conversation = Conversation { stream: gateway, requests, metrics: metrics.clone() };
    (worker, tokio::spawn(conversation.hold(None)), metrics)
}

async fn receive(worker: &mut DuplexStream, job: &Job) {
    let bytes = job.inputs.iter().map(|input| input.data.len()).sum::<usize>();
    assert_eq!(worker.read_u64_le().await.unwrap(), bytes as u64);
    let mut data = vec![0; bytes];
    worker.read_exact(&mut data).await.unwrap();
    let expected: Vec<u8> = job.inputs.iter().flat_map(|input| input.data.to_vec()).collect();
    assert!(data == expected);
}

#[tokio::test]
async fn one_request_gets_the_inputs_of_all_jobs_and_the_connection_is_kept() {
    let jobs = [job(1, 100_000), job(2, 3)];
    let (mut worker, _answering, metrics) = connect(&jobs, 1 << 20);
    for _ in 0..2 {
        worker.write_all(&request(&jobs)).await.unwrap();
        receive(&mut worker, &jobs[0]).await;
        receive(&mut worker, &jobs[1]).await;
    }
    assert_eq!(metrics.sent_bytes.get(), 2 * (200_000 + 6));
    assert_eq!(metrics.gone.get(), 0);
}

#[tokio::test]
async fn a_wrong_key_and_an_unknown_request_get_the_same_answer() {
    let known = job(1, 10);
    let mut wrong_key = job(1, 10);
    wrong_key.offer.as_mut().unwrap().key = OfferKey(3);
    let asked = [wrong_key, job(2, 10), known.clone()];
    let (mut worker, _answering, metrics) = connect(std::slice::from_ref(&known), 1 << 10);
    worker.write_all(&request(&asked)).await.unwrap();
    assert_eq!(worker.read_u64_le().await.unwrap(), GONE);
    assert_eq!(worker.read_u64_le().await.unwrap(), GONE);
    receive(&mut worker, &known).await;
    assert_eq!(metrics.gone.get(), 2);
}

#[tokio::test]
async fn outputs_are_taken_for_requests_that_wait_and_within_the_memory() {
    let known = job(1, 10);
    let mut wrong_key = job(1, 10);
    wrong_key.offer.as_mut().unwrap().key = OfferKey(3);
    let (mut worker, gateway) = duplex(1 << 20);
    let (requests, metrics) = (Requests::of(std::slice::from_ref(&known)), metrics());
    let conversation =
        Conversation { stream: gateway, requests: requests.clone(), metrics: metrics.clone() };
    let _answering = tokio::spawn(conversation.hold(None));
    let data = vec![7; 70_000];
    for _ in 0..2 {
        let lengths = [(&wrong_key, 5), (&known, 70_000), (&known, 2_000_000), (&known, u64::MAX)];
        let items = lengths.into_iter().map(|(job, length)| (item(job), length));
        worker.write_all(&encode_push(items)).await.unwrap();
        let mut answers = [9; 4];
        worker.read_exact(&mut answers).await.unwrap();
        assert_eq!(answers, [REFUSES, TAKES, REFUSES, REFUSES]);
        worker.write_all(&data).await.unwrap();
        assert_eq!(worker.read_u8().await.unwrap(), TAKES);
    }
    let outputs = requests.outputs.lock();
    assert!(outputs.iter().all(|(id, taken)| *id == known.id && taken[..] == data[..]));
    assert_eq!((outputs.len(), metrics.received_bytes.get()), (2, 140_000));
    assert_eq!(requests.room.available_permits(), 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_reads_too_slowly_is_disconnected() {
    let jobs = [job(1, 100_000)];
    let (mut worker, answering, metrics) = connect(&jobs, 1_000);
    worker.write_all(&request(&jobs)).await.unwrap();
    let began = Instant::now();
    let ended = answering.await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(metrics.sent_bytes.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_ends_the_connection() {
    for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"BFT\x01\x00\x00", b"BFT\x02\xff\xff"] {
        let (mut worker, answering, _) = connect(&[], 1 << 10);
        worker.write_all(junk).await.unwrap();
        let ended = answering.await.unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::InvalidData, "{junk:?}");
        assert_eq!(worker.read(&mut [0; 8]).await.unwrap(), 0, "nothing is answered");
    }
    // A request that never ends.
    let (mut worker, answering, _) = connect(&[], 1 << 10);
    worker.write_all(b"BFT\x01\x02\x00").await.unwrap();
    let began = Instant::now();
    assert_eq!(answering.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(began.elapsed() <= REQUEST_PATIENCE + Duration::from_millis(10));
}

#[tokio::test]
async fn a_connection_whose_first_request_has_no_valid_key_is_closed() {
    let known = job(1, 10);
    for (jobs, is_kept) in [(vec![job(2, 10), known.clone()], true), (vec![job(2, 10)], false)] {
        let (mut worker, gateway) = duplex(1 << 10);
        let requests = Requests::of(std::slice::from_ref(&known));
        let conversation = Conversation { stream: gateway, requests, metrics: metrics() };
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let answering = tokio::spawn(conversation.hold(Some(permit)));
        worker.write_all(&request(&jobs)).await.unwrap();
        assert_eq!(worker.read_u64_le().await.unwrap(), GONE);
        if is_kept {
            receive(&mut worker, &known).await;
            worker.write_all(&request(&jobs)).await.unwrap();
            assert_eq!(worker.read_u64_le().await.unwrap(), GONE);
        } else {
            assert_eq!(worker.read(&mut [0]).await.unwrap(), 0);
            answering.await.unwrap().unwrap();
        }
    }
}

const STRANGERS: usize = 8;

/// Strangers fill their places; then a worker is refused, until the strangers' time is over.
#[tokio::test]
async fn strangers_have_few_places_and_little_time() {
    let port = TensorPort::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let port = TensorPort { strangers: STRANGERS, ..port };
    let (address, metrics) = (port.address, metrics());
    let jobs = [job(1, 10)];
    let serving = tokio::spawn(port.serve(Requests::of(&jobs), metrics.clone()));
    let wanted = request(&jobs);
    let mut known = TcpStream::connect(address).await.unwrap();
    known.write_all(&wanted).await.unwrap();
    assert_eq!(known.read_u64_le().await.unwrap(), 20);
    known.read_exact(&mut [0; 20]).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        strangers.push(TcpStream::connect(address).await.unwrap());
    }
    let mut late = TcpStream::connect(address).await.unwrap();
    assert_eq!(late.read(&mut [0]).await.unwrap(), 0, "refused");
    assert_eq!(metrics.refused.get(), 1);
    // A worker that has named a key before is not affected.
    known.write_all(&wanted).await.unwrap();
    assert_eq!(known.read_u64_le().await.unwrap(), 20);
    // The first stranger is disconnected in time, and then a worker gets in.
    let mut byte = [0];
    let closed = timeout(REQUEST_PATIENCE * 5, strangers[0].read(&mut byte));
    assert_eq!(closed.await.unwrap().unwrap(), 0);
    let mut next = TcpStream::connect(address).await.unwrap();
    next.write_all(&wanted).await.unwrap();
    assert_eq!(next.read_u64_le().await.unwrap(), 20);
    serving.abort();
}

proptest! {
    /// Whatever a stranger sends, it gets no data, and the connection ends.
    #[test]
    fn a_stranger_gets_nothing(
        kind in 0_u8..4,
        count in 0_u16..5,
        rest in proptest::collection::vec(any::<u8>(), 0..300),
        is_request in any::<bool>(),
    ) {
        let mut sent = if is_request { vec![b'B', b'F', b'T', kind] } else { Vec::new() };
        sent.extend(count.to_le_bytes());
        sent.extend(rest);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        let answer = runtime.block_on(async {
            let (mut stranger, answering, _) = connect(&[job(1, 10)], 1 << 16);
            stranger.write_all(&sent).await.unwrap();
            stranger.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stranger.read_to_end(&mut answer).await.unwrap();
            assert!(answering.await.unwrap().is_err(), "it ends with the stream");
            answer
        });
        let nothing = [u8::MAX, REFUSES, TAKES];
        // TAKES ends the answer to a push of which nothing was taken.
        prop_assert!(answer.iter().all(|byte| nothing.contains(byte)), "{:?}", answer);
        prop_assert!(answer.len() <= 8 * 300);
    }
}
