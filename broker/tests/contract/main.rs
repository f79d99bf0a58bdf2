//! The contract of a broker: promises that every implementation keeps.

#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside a #[test]")]

use std::{ops::Deref, sync::Arc, time::Duration};

use batchfleet_broker::{
    Broker, BrokerError, Claims, Consumer, Datatype, Delivery, EntryId, GatewayId, GatewayRoles,
    Guidance, Inbound, Job, ModelSpec, Observer, Priority, Producer, QueueName, Replies, Reply,
    RequestId, Settlement, TargetSubscription, Tensor, TensorSpec, Timing, WorkerId, WorkerRoles,
    memory::MemoryBroker,
    redis::{RedisAddress, RedisBroker},
    wire,
};
use batchfleet_testkit::{RedisCluster, RedisServer};
use tokio::{sync::Mutex, time::timeout};

/// The lease in these tests.
const LEASE: Duration = Duration::from_secs(4);

/// Of four partitions, one of each of three masters.
const APART: [u16; 3] = [0, 1, 3];

/// Runs each promise as a separate test on both brokers, alone and as three shards, and on three
/// partitions of a Redis Cluster.
macro_rules! on_all_brokers {
    ($($module:ident { $($promise:ident)* })*) => {
        $(mod $module;)*

        mod memory {
            $($(#[tokio::test]
            async fn $promise() {
                super::$module::$promise(&super::MemoryBroker::new(1000).with_lease(super::LEASE)).await;
            })*)*
        }

        mod redis {
            $($(#[tokio::test]
            async fn $promise() {
                let server = super::RedisServer::start().await;
                let broker = super::RedisBroker::connect(&server.url()).await.unwrap();
                super::$module::$promise(&broker.with_lease(super::LEASE)).await;
            })*)*
        }

        mod memory_shards {
            $($(#[tokio::test]
            async fn $promise() {
                let broker = || super::MemoryBroker::new(1000).with_lease(super::LEASE);
                let shards = super::shards::of([broker(), broker(), broker()]).await;
                super::$module::$promise(&shards).await;
            })*)*
        }

        mod redis_shards {
            $($(#[tokio::test]
            async fn $promise() {
                let servers = [(); 3].map(|()| super::RedisServer::start());
                let [first, second, third] = servers;
                let (first, second, third) = tokio::join!(first, second, third);
                let broker = async |server: &super::RedisServer| {
                    let broker = super::RedisBroker::connect(&server.url()).await.unwrap();
                    broker.with_lease(super::LEASE)
                };
                let brokers = [broker(&first).await, broker(&second).await, broker(&third).await];
                super::$module::$promise(&super::shards::of(brokers).await).await;
            })*)*
        }

        mod redis_cluster {
            $($(#[tokio::test]
            async fn $promise() {
                let cluster = super::RedisCluster::start(3).await;
                let url = cluster.url(4);
                let partition = async |partition: u16| {
                    let address = super::RedisAddress { partition, ..url.as_str().into() };
                    let broker = super::RedisBroker::connect(address).await.unwrap();
                    broker.with_lease(super::LEASE)
                };
                let [first, second, third] = super::APART;
                let (first, second) = (partition(first).await, partition(second).await);
                let brokers = [first, second, partition(third).await];
                super::$module::$promise(&super::shards::of(brokers).await).await;
            })*)*
        }
    };
}

mod shards;
mod spreading;

on_all_brokers! {
    promises {
        jobs_are_claimed_in_order_of_submission_up_to_the_limit
        jobs_submitted_together_keep_their_order_in_each_class
        a_batch_joins_jobs_of_many_gateways_and_each_receives_its_own_replies
        a_job_and_its_reply_arrive_as_they_were_sent
        settling_empties_the_queue_and_the_backlog_follows
        the_backlog_has_the_age_of_the_oldest_waiting_job
        an_unknown_queue_is_empty
        replies_to_a_gateway_that_is_gone_are_counted
        a_withdrawn_job_is_never_claimed
        withdrawing_a_claimed_job_leaves_it_to_its_worker
        jobs_handed_back_are_claimed_again_in_order
        a_job_handed_back_keeps_its_deadline
        a_delivery_knows_how_long_it_waited_and_when_it_expires
        an_expired_job_is_delivered_as_expired
        an_announced_worker_is_live_until_it_retires
        a_worker_that_stops_renewing_is_known_but_not_live
        a_claim_waits_about_a_second_and_then_returns_nothing
        a_waiting_claim_wakes_as_soon_as_a_job_comes
        two_consumers_never_share_a_job
        a_job_submitted_before_any_worker_is_claimed
    }
    classes {
        classes_share_a_claim_by_weight_highest_and_oldest_first
        places_that_a_class_leaves_free_go_to_the_others
        claims_of_one_job_alternate_between_classes_by_weight
        a_claim_never_exceeds_its_limit_however_many_classes_wake_it
        a_class_that_comes_into_use_is_served_within_two_full_batches
        the_backlog_counts_each_class
        the_backlogs_of_several_queues_are_those_of_each
    }
    recovery {
        the_jobs_of_a_dead_worker_are_reclaimed_in_time_and_counted
        a_worker_that_left_is_dead_to_gateways_and_keeps_its_jobs
        the_jobs_of_a_living_worker_are_safe_until_the_lease_ends
        a_job_whose_lease_is_renewed_stays_with_its_worker
        two_reclaimers_never_share_a_job
        a_job_that_was_just_claimed_is_not_reclaimed
        the_jobs_that_are_still_in_the_queue_are_known
        a_gateway_is_alive_until_its_roles_are_dropped
        a_claim_marks_jobs_of_unsubscribed_gateways
        poison_is_answered_like_any_failure
        a_connected_broker_is_ready
    }
    traffic {
        a_gateway_that_reported_nothing_has_no_traffic
        the_last_report_of_a_gateway_is_read_with_its_age
    }
    news {
        a_worker_that_comes_or_goes_is_news_at_once
        another_n_is_news_within_a_second
        a_worker_that_stops_renewing_is_dead_in_the_news
    }
    guidance {
        the_first_guidance_comes_at_once_also_without_a_target
        a_target_reaches_workers_at_once_and_later_workers_too
        the_last_target_holds_and_its_epoch_is_higher
        guidance_counts_the_living_workers_of_the_queue
    }
    promised {
        a_promise_is_read_apart_from_announcements
        a_retraction_replaces_a_promise_and_a_promise_a_retraction
        only_jobs_that_no_worker_has_claimed_are_withdrawn
        the_number_of_jobs_that_each_worker_holds_is_known
        a_worker_that_holds_a_job_is_never_forgotten
    }
}

/// A gateway and its id.
struct Gateway {
    id: GatewayId,
    producer: Arc<dyn Producer>,
    replies: Mutex<Box<dyn Replies>>,
}

impl Gateway {
    async fn new(broker: &dyn Broker) -> Self {
        let id = GatewayId::random();
        let GatewayRoles { producer, replies } = broker.gateway(id).await.unwrap();
        Self { id, producer, replies: Mutex::new(replies) }
    }

    fn job(&self, marker: u64) -> Job {
        let data = marker.to_le_bytes().to_vec().into();
        let inputs =
            vec![Tensor { name: "x".into(), datatype: Datatype::Uint64, shape: vec![1, 1], data }];
        Job {
            id: RequestId::random(),
            gateway: self.id,
            attempt: 0,
            priority: Priority::Default,
            ttl: Duration::from_secs(30),
            rows: 1,
            digest: wire::digest(&inputs),
            inputs,
            outputs: Vec::new(),
            trace: None,
            classes: Vec::new(),
            offer: None,
        }
    }

    /// Submits jobs with the markers `0..count`.
    async fn submit(&self, count: u64) -> Vec<EntryId> {
        self.submit_as(Priority::Default, count).await
    }

    /// Submits jobs of another class with the markers `0..count`.
    async fn submit_as(&self, priority: Priority, count: u64) -> Vec<EntryId> {
        let mut entries = Vec::new();
        for marker in 0..count {
            let job = Job { priority, ..self.job(marker) };
            entries.push(self.producer.submit(&queue(), &job).await.unwrap());
        }
        entries
    }

    async fn receive(&self) -> Vec<Reply> {
        let mut replies = self.replies.lock().await;
        let received = async {
            loop {
                // On a busy machine a broker may seem to be away for a moment.
                if let Inbound::Replies(replies) = replies.receive().await {
                    break replies;
                }
            }
        };
        timeout(Duration::from_secs(10), received).await.unwrap()
    }
}

/// The roles of a worker, shareable so that tests need no `mut`.
struct Worker {
    claims: Mutex<Box<dyn Claims>>,
    consumer: Arc<dyn Consumer>,
    target: Mutex<Box<dyn TargetSubscription>>,
}

impl Worker {
    async fn new(broker: &dyn Broker, id: WorkerId) -> Self {
        let WorkerRoles { claims, consumer, target } = broker.worker(queue(), id).await.unwrap();
        Self { claims: Mutex::new(claims), consumer, target: Mutex::new(target) }
    }

    async fn claim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        self.claims.lock().await.claim(limit).await
    }

    async fn guidance(&self) -> Result<Guidance, BrokerError> {
        self.target.lock().await.guidance().await
    }
}

impl Deref for Worker {
    type Target = dyn Consumer;

    fn deref(&self) -> &Self::Target {
        &*self.consumer
    }
}

fn queue() -> QueueName {
    QueueName::new("model", 1)
}

async fn worker(broker: &dyn Broker) -> Worker {
    Worker::new(broker, WorkerId::random()).await
}

async fn observer(broker: &dyn Broker) -> Arc<dyn Observer> {
    broker.observer().await.unwrap()
}

fn marker(delivery: &Delivery) -> u64 {
    u64::from_le_bytes(delivery.job.inputs[0].data[..].try_into().unwrap())
}

fn markers(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(marker).collect()
}

/// Settles a delivery with its inputs as outputs.
fn echo(delivery: Delivery) -> Settlement {
    let Delivery { entry, job, waited, .. } = delivery;
    let Job { id, gateway, attempt, digest, inputs, .. } = job;
    let timing = Timing { queue: waited, batch_rows: 1, ..Timing::default() };
    let reply = Reply { id, attempt, digest, timing, outcome: Ok(inputs), pushed: None };
    Settlement { entry, gateway, reply }
}

/// [`echo`] of a delivery whose settlement may fail, and be tried again.
fn again(delivery: &Delivery) -> Settlement {
    echo(Delivery { job: delivery.job.clone(), ..*delivery })
}

fn echoes(deliveries: Vec<Delivery>) -> Vec<Settlement> {
    deliveries.into_iter().map(echo).collect()
}

fn spec() -> ModelSpec {
    let tensor = TensorSpec::new("x", Datatype::Fp32, [-1, 4]);
    ModelSpec {
        queue: queue(),
        platform: "onnxruntime_onnx".into(),
        backend: "onnxruntime".into(),
        max_batch: std::num::NonZeroU32::new(8),
        inputs: vec![tensor.clone()],
        outputs: vec![tensor],
    }
}

/// Only the memory broker limits the number of waiting jobs; Redis has its memory limit.
#[tokio::test]
async fn memory_refuses_more_waiting_jobs_than_its_bound() {
    let broker = MemoryBroker::new(3);
    let gateway = Gateway::new(&broker).await;
    let worker = worker(&broker).await;
    gateway.submit(3).await;
    let refused = gateway.producer.submit(&queue(), &gateway.job(3)).await.unwrap_err();
    assert_eq!(refused.code(), "full");
    worker.claim(1).await.unwrap();
    gateway.submit(1).await;
}
