//! Large values on a slow network.

use batchfleet_broker::{Inbound, Job};
use batchfleet_testkit::{CuttingProxy, RedisServer};
use redis::aio::MultiplexedConnection;

use super::*;

/// How much of a large value arrives before the proxy holds the rest back.
const ARRIVES: usize = 1 << 20;
/// The size of the large values. The proxy and the sockets buffer less.
const LARGE: usize = 48 << 20;
/// Longer than small commands wait for their answer.
const LONG: Duration = Duration::from_millis(1500);

/// A gateway and a worker behind a proxy.
struct Slow {
    proxy: CuttingProxy,
    pair: Pair,
    redis: MultiplexedConnection,
    _server: RedisServer,
}

impl Slow {
    async fn start() -> Self {
        let server = RedisServer::start().await;
        let proxy = CuttingProxy::start(server.address()).await.unwrap();
        let pair = Pair::new(&format!("redis://{}", proxy.address())).await;
        pair.serves().await;
        let redis = administrator(&server).await;
        Self { proxy, pair, redis, _server: server }
    }

    fn job(&self) -> Job {
        Job { ttl: Duration::from_mins(2), ..self.pair.job(LARGE) }
    }

    /// Claims a job that was submitted over a good network.
    async fn delivery(&self, job: &Job) -> Delivery {
        self.pair.producer.submit(&queue(), job).await.unwrap();
        self.pair.claim_at_last().await.remove(0)
    }

    /// The bytes that Redis has received.
    async fn received(&self) -> usize {
        let mut redis = self.redis.clone();
        let info: String = redis::cmd("INFO").arg("stats").query_async(&mut redis).await.unwrap();
        let field = info.lines().find_map(|line| line.strip_prefix("total_net_input_bytes:"));
        field.unwrap().parse().unwrap()
    }

    /// Waits until the first part of a large value has arrived.
    async fn wait_for_a_part(&self, before: usize) {
        let until = Instant::now() + PATIENCE;
        while self.received().await < before + ARRIVES / 2 {
            assert!(Instant::now() < until, "nothing of the value arrived");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a large value, and serves small requests while most of the value is held back. Asserts
    /// that the value is sent once.
    async fn send<T>(&self, sending: impl Future<Output = T>) -> T {
        let before = self.received().await;
        self.proxy.hold_after(Some(ARRIVES));
        let meanwhile = async {
            self.wait_for_a_part(before).await;
            let since = Instant::now();
            while since.elapsed() < LONG {
                self.pair.serves().await;
            }
            assert!(self.received().await < before + LARGE / 2, "the value was not held back");
            self.proxy.hold_after(None);
        };
        let (sent, ()) = tokio::join!(sending, meanwhile);
        let bytes = self.received().await - before;
        assert!(bytes < LARGE + LARGE / 2, "a value of {LARGE} bytes took {bytes}");
        sent
    }

    async fn entries(&self) -> usize {
        let mut redis = self.redis.clone();
        let length = redis::cmd("XLEN").arg("bf:{model:1}:q:default").clone();
        length.query_async(&mut redis).await.unwrap()
    }
}

#[tokio::test]
async fn a_large_job_is_sent_once_and_delays_no_small_requests() {
    let slow = Slow::start().await;
    let job = slow.job();
    let queue = queue();
    slow.send(slow.pair.producer.submit(&queue, &job)).await.unwrap();
    let batch = slow.pair.claim_at_last().await;
    assert_eq!(batch.iter().map(|delivery| delivery.job.id).collect::<Vec<_>>(), [job.id]);
}

#[tokio::test]
async fn a_large_answer_is_sent_once_and_delays_no_small_requests() {
    let slow = Slow::start().await;
    let job = slow.job();
    let delivery = slow.delivery(&job).await;
    let settling = slow.pair.consumer.settle(vec![answer(delivery)]);
    assert_eq!(slow.send(settling).await.unwrap(), 0);
    let Inbound::Replies(replies) = slow.pair.receive().await else { panic!("interrupted") };
    assert_eq!(replies.iter().map(|reply| reply.id).collect::<Vec<_>>(), [job.id]);
    assert!(replies[0].outcome.as_ref().unwrap() == &job.inputs);
    slow.pair.serves().await;
}

#[tokio::test]
async fn a_large_job_is_handed_back_once_and_delays_no_small_requests() {
    let slow = Slow::start().await;
    let job = slow.job();
    let delivery = slow.delivery(&job).await;
    slow.send(slow.pair.consumer.hand_back(vec![delivery])).await.unwrap();
    let batch = slow.pair.claim_at_last().await;
    assert_eq!(batch.iter().map(|delivery| delivery.job.id).collect::<Vec<_>>(), [job.id]);
}

/// The part that arrived before the cut is discarded, and a second attempt succeeds.
#[tokio::test]
async fn a_large_job_whose_connection_is_cut_is_queued_by_the_next_attempt_only() {
    let slow = Slow::start().await;
    let (queue, job, before) = (queue(), slow.job(), slow.received().await);
    slow.proxy.hold_after(Some(ARRIVES));
    let (sent, ()) = tokio::join!(slow.pair.producer.submit(&queue, &job), async {
        slow.wait_for_a_part(before).await;
        slow.proxy.cut();
    });
    assert_eq!(sent.unwrap_err().code(), "unreachable");
    slow.proxy.hold_after(None);
    assert_eq!(slow.entries().await, 0);
    let until = Instant::now() + PATIENCE;
    while let Err(error) = slow.pair.producer.submit(&queue, &job).await {
        assert_eq!(error.code(), "unreachable", "{error}");
        assert!(Instant::now() < until, "{error}");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(slow.entries().await, 1);
}

/// A network that stops is detected by the small commands, long before the time in which the large
/// job would have to arrive.
#[tokio::test]
async fn a_large_job_is_given_up_when_the_network_stops() {
    let slow = Slow::start().await;
    let (queue, job, before) = (queue(), slow.job(), slow.received().await);
    slow.proxy.hold_after(Some(ARRIVES));
    let submitting = slow.pair.producer.submit(&queue, &job);
    let (sent, ()) = tokio::join!(timeout(2 * PATIENCE, submitting), async {
        slow.wait_for_a_part(before).await;
        slow.proxy.stall();
    });
    assert_eq!(sent.unwrap().unwrap_err().code(), "unreachable");
}

/// What is left of a job after its deadline is not sent, so that the job is not in the queue.
#[tokio::test]
async fn a_large_job_whose_deadline_passes_is_not_sent_to_the_end() {
    let slow = Slow::start().await;
    slow.proxy.hold_after(Some(ARRIVES));
    let job = Job { ttl: LONG, ..slow.job() };
    let error = slow.pair.producer.submit(&queue(), &job).await.unwrap_err();
    assert_eq!(error.code(), "unreachable");
    slow.proxy.hold_after(None);
    slow.pair.serves().await;
    assert_eq!(slow.entries().await, 0);
}
