use std::net::Ipv4Addr;

use batchfleet_broker::{
    Offer, Pushed, QueueName, Timing,
    offer::{
        GONE, HEAD, ITEM, Item, PUSHED_ITEM, REFUSES, RequestKind, TAKES, decode_head, decode_item,
        decode_pushed_item,
    },
    wire,
};
use batchfleet_service::metrics::MetricGroup;
use bytes::Bytes;
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{batch::examples::delivery, metrics::WorkerMetrics, settle::JobReply};

fn fetcher() -> Fetcher {
    let metrics = WorkerMetrics::register(&Registry::new()).unwrap();
    Fetcher::new(metrics.of_model(&QueueName::new("m", 1), "cpu"))
}

impl Fetcher {
    /// How many inputs were not fetched, for each reason.
    fn failures(&self) -> Vec<(&'static str, u64)> {
        let counted = FetchFailure::VARIANTS.iter();
        counted
            .map(|&failure| (failure.into(), self.metrics.fetch_failures(failure).get()))
            .filter(|&(_, count)| count > 0)
            .collect()
    }
}

/// A port for workers, and what it answers.
struct Port {
    listener: TcpListener,
    address: SocketAddr,
}

impl Port {
    async fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// A claimed job whose inputs, `bytes` times the number, are offered here; and its data.
    fn job(&self, number: u8, bytes: usize) -> (Delivery, Bytes) {
        let mut delivery = delivery(number.into(), 1, bytes as u64);
        let job = &mut delivery.job;
        let data = Bytes::from(vec![number; bytes]);
        job.inputs[0].data = data.clone();
        job.digest = wire::digest(&job.inputs);
        job.offer = Some(Box::new(Offer::of(&job.inputs, self.address)));
        job.inputs[0].data = Bytes::new();
        (delivery, data)
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }
}

async fn request(stream: &mut TcpStream) -> Vec<Item> {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).await.unwrap();
    let (kind, count) = decode_head(head).unwrap();
    assert_eq!(kind, RequestKind::Fetch);
    let mut items = vec![[0; ITEM]; count];
    stream.read_exact(items.as_flattened_mut()).await.unwrap();
    items.into_iter().map(decode_item).collect()
}

async fn answer(stream: &mut TcpStream, data: &[u8]) {
    stream.write_u64_le(data.len() as u64).await.unwrap();
    stream.write_all(data).await.unwrap();
}

#[tokio::test]
async fn the_inputs_of_a_claim_are_fetched_with_one_request_over_a_kept_connection() {
    let (port, fetcher) = (Port::open().await, fetcher());
    let (first, data) = port.job(1, 700_000);
    let (second, few) = port.job(2, 3);
    let keys = [&first, &second].map(|delivery| delivery.job.offer.as_ref().unwrap().key);
    let mut claimed = vec![first, delivery(9, 1, 4), second];
    let gateway = tokio::spawn({
        let (data, few) = (data.clone(), few.clone());
        async move {
            let mut stream = port.accept().await;
            for _ in 0..2 {
                let items = request(&mut stream).await;
                assert!(items.iter().map(|item| item.key).eq(keys));
                answer(&mut stream, &data).await;
                answer(&mut stream, &few).await;
            }
        }
    });
    for _ in 0..2 {
        claimed[0].job.inputs[0].data = Bytes::new();
        claimed[2].job.inputs[0].data = Bytes::new();
        fetcher.fetch(&mut claimed).await;
        assert!(claimed.iter().all(|delivery| !delivery.job.lacks_inputs()));
        assert!(claimed[0].job.inputs[0].data == data && claimed[2].job.inputs[0].data == few);
        assert_eq!(claimed[1].job.inputs[0].data[..], [0; 4], "not offered, and unchanged");
    }
    gateway.await.unwrap();
    assert_eq!(fetcher.failures(), []);
    assert_eq!(fetcher.metrics.fetched_bytes.get(), 2 * 700_003);
}

#[tokio::test]
async fn wrong_inputs_and_those_of_ended_requests_are_left_out() {
    let (port, fetcher) = (Port::open().await, fetcher());
    let (jobs, data): (Vec<_>, Vec<_>) = (1..=3).map(|number| port.job(number, 1000)).unzip();
    let mut jobs = jobs;
    let gateway = tokio::spawn(async move {
        let mut stream = port.accept().await;
        assert_eq!(request(&mut stream).await.len(), 3);
        stream.write_u64_le(GONE).await.unwrap();
        answer(&mut stream, &[7; 1000]).await;
        answer(&mut stream, &data[2]).await;
    });
    fetcher.fetch(&mut jobs).await;
    gateway.await.unwrap();
    let lack: Vec<_> = jobs.iter().map(|delivery| delivery.job.lacks_inputs()).collect();
    assert_eq!(lack, [true, true, false]);
    assert_eq!(fetcher.failures(), [("gone", 1), ("digest", 1)]);
}

#[tokio::test]
async fn an_answer_of_another_length_is_not_read() {
    let (port, fetcher) = (Port::open().await, fetcher());
    let mut jobs = vec![port.job(1, 1000).0, port.job(2, 10).0];
    let gateway = tokio::spawn(async move {
        let mut stream = port.accept().await;
        request(&mut stream).await;
        stream.write_u64_le(1 << 60).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the worker disconnects");
    });
    fetcher.fetch(&mut jobs).await;
    gateway.await.unwrap();
    assert!(jobs.iter().all(|delivery| delivery.job.lacks_inputs()));
    assert_eq!(fetcher.failures(), [("invalid", 2)]);
}

/// A gateway that stops answering costs one second once; the jobs of other gateways are fetched.
#[tokio::test]
async fn a_silent_gateway_is_not_waited_for_again_at_once() {
    let (silent, port, fetcher) = (Port::open().await, Port::open().await, fetcher());
    let (answered, data) = port.job(2, 10);
    let mut jobs = vec![silent.job(1, 1000).0, answered];
    let gateway = tokio::spawn(async move {
        let mut stream = port.accept().await;
        request(&mut stream).await;
        answer(&mut stream, &data).await;
    });
    let took = fetcher.fetch(&mut jobs).await;
    gateway.await.unwrap();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{took:?}");
    assert!(jobs[0].job.lacks_inputs() && !jobs[1].job.lacks_inputs());
    assert_eq!(fetcher.failures(), [("timeout", 1)]);
    let took = fetcher.fetch(&mut jobs).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert_eq!(fetcher.failures(), [("unreachable", 1), ("timeout", 1)]);
}

#[tokio::test]
async fn a_connection_that_the_gateway_has_closed_is_replaced() {
    let (port, fetcher) = (Port::open().await, fetcher());
    let (job, data) = port.job(1, 10);
    let mut jobs = vec![job];
    let gateway = tokio::spawn(async move {
        for _ in 0..2 {
            let mut stream = port.accept().await;
            request(&mut stream).await;
            answer(&mut stream, &data).await;
        }
    });
    for _ in 0..2 {
        jobs[0].job.inputs[0].data = Bytes::new();
        fetcher.fetch(&mut jobs).await;
        assert!(!jobs[0].job.lacks_inputs());
    }
    gateway.await.unwrap();
    assert_eq!(fetcher.failures(), []);
}

#[tokio::test]
async fn nothing_is_fetched_for_a_gateway_that_waits_for_no_replies() {
    let (port, fetcher) = (Port::open().await, fetcher());
    let (job, _) = port.job(1, 10);
    let mut jobs = vec![Delivery { awaited: false, ..job }];
    assert_eq!(fetcher.fetch(&mut jobs).await, Duration::ZERO);
    assert!(jobs[0].job.lacks_inputs());
}

/// The reply to a job that was offered at `port`, with two outputs of `bytes` bytes.
fn reply(port: &Port, number: u8, bytes: usize) -> JobReply {
    let (delivery, _) = port.job(number, 1);
    let mut output = delivery.job.inputs[0].clone();
    output.data = vec![number; bytes].into();
    JobReply::outputs(delivery, Timing::default(), vec![output.clone(), output])
}

fn pusher() -> (Pusher, ModelMetrics) {
    let metrics = fetcher().metrics;
    (Pusher::new(metrics.clone()), metrics)
}

/// Reads a push of replies of `lengths`, and answers it.
async fn take(stream: &mut TcpStream, lengths: &[u64], answers: &[u8]) {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(decode_head(head), Some((RequestKind::Push, lengths.len())));
    let mut items = vec![[0; PUSHED_ITEM]; lengths.len()];
    stream.read_exact(items.as_flattened_mut()).await.unwrap();
    assert!(items.into_iter().map(|item| decode_pushed_item(item).1).eq(lengths.iter().copied()));
    stream.write_all(answers).await.unwrap();
}

#[tokio::test]
async fn large_outputs_are_pushed_to_gateways_that_take_them() {
    let (port, (pusher, metrics)) = (Port::open().await, pusher());
    let mut replies = vec![reply(&port, 1, 400_000), reply(&port, 2, 10), reply(&port, 3, 40_000)];
    let gateway = tokio::spawn(async move {
        let mut stream = port.accept().await;
        take(&mut stream, &[800_000, 80_000], &[TAKES, REFUSES]).await;
        let mut data = vec![0; 800_000];
        stream.read_exact(&mut data).await.unwrap();
        assert!(data.iter().all(|&byte| byte == 1));
        stream.write_u8(TAKES).await.unwrap();
        stream
    });
    pusher.push(&mut replies).await;
    drop(gateway.await.unwrap());
    let outputs = replies[0].tensors().to_vec();
    let pushed: Vec<_> = replies.into_iter().map(|reply| reply.into_reply().pushed).collect();
    assert_eq!(pushed, [Some(Pushed::of(&outputs)), None, None]);
    assert_eq!(metrics.pushed_bytes.get(), 800_000);
    assert_eq!(metrics.push_failures.get(), 0);
}

#[tokio::test]
async fn outputs_that_a_gateway_has_not_confirmed_travel_with_their_reply() {
    let (port, (pusher, metrics)) = (Port::open().await, pusher());
    let mut replies = vec![reply(&port, 1, 40_000)];
    let gateway = tokio::spawn(async move {
        let mut stream = port.accept().await;
        take(&mut stream, &[80_000], &[TAKES]).await;
        stream.read_exact(&mut [0; 1000]).await.unwrap();
    });
    pusher.push(&mut replies).await;
    gateway.await.unwrap();
    assert_eq!(metrics.push_failures.get(), 1);
    let reply = replies.remove(0).into_reply();
    assert_eq!((reply.pushed, reply.outcome.unwrap()[0].data.len()), (None, 40_000));
}
