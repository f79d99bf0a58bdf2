//! Jobs that take longer to arrive than Redis takes to answer small commands.

use std::collections::HashSet;

use batchfleet_broker::{Announcement, Job};
use batchfleet_testkit::{CuttingProxy, RedisServer};

use super::*;

/// In bytes per second.
const BANDWIDTH: u32 = 2_000_000;
/// The size of a job: three take longer than a claim waits for small jobs, one takes longer than other
/// commands wait.
const LARGE: usize = 4_000_000;
const JOBS: usize = 3;

/// A worker on a slow network, and a gateway beside Redis.
struct Slow {
    pair: Pair,
    near: RedisBroker,
    server: RedisServer,
    _proxy: CuttingProxy,
}

impl Slow {
    async fn start() -> Self {
        let server = RedisServer::start().await;
        let proxy = CuttingProxy::start(server.address()).await.unwrap();
        let near = RedisBroker::connect(&server.url()).await.unwrap();
        let far = RedisBroker::connect(&format!("redis://{}", proxy.address())).await.unwrap();
        let pair = Pair::between(&near, &far).await;
        proxy.set_bandwidth(Some(BANDWIDTH));
        Self { pair, near, server, _proxy: proxy }
    }

    async fn submit(&self) -> HashSet<RequestId> {
        let mut ids = HashSet::new();
        for _ in 0..JOBS {
            let job = Job { ttl: Duration::from_mins(2), ..self.pair.job(LARGE) };
            self.pair.producer.submit(&queue(), &job).await.unwrap();
            ids.insert(job.id);
        }
        ids
    }

    /// Claims and reclaims like a worker until all jobs have arrived.
    async fn receive(&self) -> Vec<Delivery> {
        let announcement = Announcement::new(WorkerId::random(), model());
        let until = Instant::now() + 4 * PATIENCE;
        let mut all = Vec::new();
        while all.len() < JOBS {
            drop(self.pair.consumer.renew(&announcement).await);
            for found in [self.pair.consumer.reclaim(1).await, self.pair.claim(JOBS).await] {
                match found {
                    Ok(jobs) => all.extend(jobs),
                    Err(error) => assert_eq!(error.code(), "unreachable", "{error}"),
                }
            }
            assert!(Instant::now() < until, "{} of {JOBS} jobs have arrived", all.len());
        }
        all
    }

    /// How often Redis has sent each job, on average.
    async fn sent(&self) -> u64 {
        let bytes = self.server.info("total_net_output_bytes").await.unwrap();
        bytes.div_ceil((JOBS * LARGE) as u64)
    }
}

fn ids(jobs: &[Delivery]) -> HashSet<RequestId> {
    jobs.iter().map(|delivery| delivery.job.id).collect()
}

#[tokio::test]
async fn large_jobs_arrive_over_a_slow_network() {
    let slow = Slow::start().await;
    let submitted = slow.submit().await;
    let jobs = slow.receive().await;
    assert_eq!(ids(&jobs), submitted);
    assert!(jobs.iter().all(|delivery| delivery.deliveries == 1));
    assert!(slow.sent().await <= 4, "each job was sent {} times", slow.sent().await);
}

#[tokio::test]
async fn large_jobs_of_a_dead_worker_arrive_over_a_slow_network() {
    let slow = Slow::start().await;
    let submitted = slow.submit().await;
    let mut dead = slow.near.worker(queue(), WorkerId::random()).await.unwrap();
    assert_eq!(dead.claims.claim(JOBS).await.unwrap().len(), JOBS);
    drop(dead);
    let jobs = slow.receive().await;
    assert_eq!(ids(&jobs), submitted);
    assert!(jobs.iter().all(|delivery| delivery.deliveries == 2));
    assert!(slow.sent().await <= 4, "each job was sent {} times", slow.sent().await);
}
