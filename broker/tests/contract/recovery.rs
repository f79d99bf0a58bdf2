//! Promises about workers and gateways that die.

use std::{collections::HashSet, time::Duration};

use batchfleet_broker::{
    Announcement, Broker, Consumer, Delivery, Failure, GatewayId, Job, Priority, QueueName,
    ReplyError, WorkerId,
};
use tokio::time::{Instant, sleep};

use crate::{Gateway, LEASE, Worker, echoes, markers, observer, queue, spec, worker};

/// Reclaims until a job arrives, for at most 10 s.
async fn reclaim_at_last(worker: &dyn Consumer, limit: usize) -> Vec<Delivery> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let batch = worker.reclaim(limit).await.unwrap();
        if !batch.is_empty() || Instant::now() > until {
            return batch;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn deliveries(batch: &[Delivery]) -> Vec<u32> {
    batch.iter().map(|delivery| delivery.deliveries).collect()
}

pub(crate) async fn the_jobs_of_a_dead_worker_are_reclaimed_in_time_and_counted(
    broker: &dyn Broker,
) {
    let gateway = Gateway::new(broker).await;
    let (id, second, third) = (WorkerId::random(), worker(broker).await, worker(broker).await);
    let first = Worker::new(broker, id).await;
    first.renew(&Announcement::new(id, spec())).await.unwrap();
    gateway.submit(2).await;
    sleep(Duration::from_millis(2)).await;
    gateway.submit_as(Priority::Critical, 2).await;
    let lost = first.claim(4).await.unwrap();
    assert_eq!(deliveries(&lost), [1; 4]);
    let died = Instant::now();

    let batch = reclaim_at_last(&*second, 3).await;
    let took = died.elapsed().as_secs_f64();
    assert!((2.9..5.0).contains(&took), "{took} s");
    assert_eq!(deliveries(&batch), [2; 3]);
    let oldest = [(Priority::Default, 0), (Priority::Default, 1), (Priority::Critical, 0)];
    let classes = batch.iter().map(|delivery| delivery.entry.priority);
    assert_eq!(classes.zip(markers(&batch)).collect::<Vec<_>>(), oldest);
    assert_eq!(second.settle(echoes(batch)).await.unwrap(), 0);
    assert_eq!(gateway.receive().await.len(), 3);

    // The second worker never announced itself, so it counts as dead while it holds the last job.
    assert_eq!(deliveries(&second.reclaim(10).await.unwrap()), [2]);
    // The number of deliveries shows that this claims nothing.
    let until = Instant::now() + Duration::from_secs(10);
    while !third.can_reclaim().await.unwrap() && Instant::now() < until {
        sleep(Duration::from_millis(20)).await;
    }
    let last = reclaim_at_last(&*third, 10).await;
    assert_eq!((deliveries(&last), markers(&last)), (vec![3], vec![1]));
    assert!(!third.can_reclaim().await.unwrap(), "nothing is left");
    // Settling jobs that other workers have reclaimed does no harm.
    first.settle(echoes(lost)).await.unwrap();
    third.settle(echoes(last)).await.unwrap();
    let backlog = observer(broker).await.backlog(&queue()).await.unwrap();
    assert_eq!((backlog.depth(), backlog.in_flight), (0, 0));
}

pub(crate) async fn a_worker_that_left_is_dead_to_gateways_and_keeps_its_jobs(broker: &dyn Broker) {
    let (gateway, other, dead) =
        (Gateway::new(broker).await, worker(broker).await, worker(broker).await);
    let id = WorkerId::random();
    let leaving = Worker::new(broker, id).await;
    leaving.renew(&Announcement::new(id, spec())).await.unwrap();
    gateway.submit(2).await;
    let kept = leaving.claim(1).await.unwrap();
    assert_eq!(dead.claim(1).await.unwrap().len(), 1);
    // Until the job of the dead worker is reclaimed.
    let until = Instant::now() + Duration::from_secs(10);
    let reclaimed = loop {
        leaving.leave().await.unwrap();
        let reclaimed = other.reclaim(10).await.unwrap();
        if !reclaimed.is_empty() || Instant::now() > until {
            break reclaimed;
        }
        sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(markers(&reclaimed), [1]);
    let fleet = observer(broker).await.fleet().await.unwrap();
    assert!(fleet.workers.iter().all(|worker| !worker.live), "{fleet:?}");
    leaving.settle(echoes(kept)).await.unwrap();
    assert_eq!(gateway.receive().await.len(), 1);
    leaving.retire().await.unwrap();
}

pub(crate) async fn the_jobs_of_a_living_worker_are_safe_until_the_lease_ends(broker: &dyn Broker) {
    let (gateway, other) = (Gateway::new(broker).await, worker(broker).await);
    let id = WorkerId::random();
    let slow = Worker::new(broker, id).await;
    let announcement = Announcement::new(id, spec());
    slow.renew(&announcement).await.unwrap();
    gateway.submit(2).await;
    slow.claim(1).await.unwrap();
    let claimed = Instant::now();
    let batch = loop {
        slow.renew(&announcement).await.unwrap();
        let batch = other.reclaim(10).await.unwrap();
        if !batch.is_empty() || claimed.elapsed() > 2 * LEASE {
            break batch;
        }
        sleep(Duration::from_millis(100)).await;
    };
    assert!(claimed.elapsed() >= LEASE.saturating_sub(Duration::from_millis(10)));
    assert_eq!((deliveries(&batch), markers(&batch)), (vec![2], vec![0]));
    assert_eq!(markers(&other.claim(10).await.unwrap()), [1]);
}

pub(crate) async fn a_job_whose_lease_is_renewed_stays_with_its_worker(broker: &dyn Broker) {
    let (gateway, other) = (Gateway::new(broker).await, worker(broker).await);
    let id = WorkerId::random();
    let slow = Worker::new(broker, id).await;
    let announcement = Announcement::new(id, spec());
    slow.renew(&announcement).await.unwrap();
    gateway.submit(2).await;
    let claimed = slow.claim(2).await.unwrap();
    let began = Instant::now();
    let mut reclaimed = Vec::new();
    while began.elapsed() < LEASE * 3 / 2 {
        slow.renew(&announcement).await.unwrap();
        slow.renew_leases(&[claimed[1].entry]).await.unwrap();
        reclaimed.extend(other.reclaim(10).await.unwrap());
        sleep(LEASE / 20).await;
    }
    assert_eq!((deliveries(&reclaimed), markers(&reclaimed)), (vec![2], vec![0]));
    // A renewal is no delivery.
    slow.retire().await.unwrap();
    let rest = reclaim_at_last(&*other, 10).await;
    assert_eq!((deliveries(&rest), markers(&rest)), (vec![2], vec![1]));
}

pub(crate) async fn two_reclaimers_never_share_a_job(broker: &dyn Broker) {
    let gateway = Gateway::new(broker).await;
    let (dead, one, other) = (worker(broker).await, worker(broker).await, worker(broker).await);
    gateway.submit(100).await;
    assert_eq!(dead.claim(100).await.unwrap().len(), 100);
    let reclaim = async |worker: &dyn Consumer| {
        let announcement = Announcement::new(WorkerId::random(), spec());
        let mut claimed = Vec::new();
        let mut until = Instant::now() + Duration::from_secs(8);
        while Instant::now() < until {
            // Announces the worker, so that the other worker does not reclaim its jobs.
            worker.renew(&announcement).await.unwrap();
            let batch = worker.reclaim(7).await.unwrap();
            assert!(batch.len() <= 7);
            assert!(batch.iter().all(|delivery| delivery.deliveries == 2));
            if !batch.is_empty() {
                until = Instant::now() + Duration::from_secs(1);
            }
            claimed.extend(markers(&batch));
            sleep(Duration::from_millis(1)).await;
        }
        claimed
    };
    let (one, other) = tokio::join!(reclaim(&*one), reclaim(&*other));
    let all: HashSet<_> = one.iter().chain(&other).copied().collect();
    assert_eq!((one.len() + other.len(), all.len()), (100, 100));
}

pub(crate) async fn a_job_that_was_just_claimed_is_not_reclaimed(broker: &dyn Broker) {
    let gateway = Gateway::new(broker).await;
    let (dead, other) = (worker(broker).await, worker(broker).await);
    assert!(other.reclaim(10).await.unwrap().is_empty());
    // Wait for the end of the liveness grace period.
    sleep(Duration::from_millis(3100)).await;
    assert!(other.reclaim(10).await.unwrap().is_empty());
    gateway.submit(1).await;
    dead.claim(1).await.unwrap();
    let claimed = Instant::now();
    assert_eq!(reclaim_at_last(&*other, 1).await.len(), 1);
    assert!(claimed.elapsed() >= Duration::from_millis(499), "{:?}", claimed.elapsed());
    assert!(other.reclaim(0).await.unwrap().is_empty());
}

pub(crate) async fn the_jobs_that_are_still_in_the_queue_are_known(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let (queue, producer) = (queue(), &gateway.producer);
    let mut entries = gateway.submit(300).await;
    entries.extend(gateway.submit_as(Priority::Sheddable, 3).await);
    let outstanding = async || {
        let outstanding = producer.outstanding(&queue, &entries).await.unwrap();
        outstanding.into_iter().filter(|outstanding| *outstanding).count()
    };
    assert_eq!(outstanding().await, 303);
    let batch = worker.claim(100).await.unwrap();
    assert_eq!(outstanding().await, 303);
    worker.settle(echoes(batch)).await.unwrap();
    assert_eq!(outstanding().await, 203);
    producer.withdraw(&queue, entries[299]).await.unwrap();
    let left = producer.outstanding(&queue, &entries[298..300]).await.unwrap();
    assert_eq!(left, [true, false]);
    assert_eq!(worker.claim(300).await.unwrap().len(), 202, "asking claims nothing");
    let elsewhere = QueueName::new("elsewhere", 1);
    assert_eq!(producer.outstanding(&elsewhere, &entries[300..]).await.unwrap(), [false; 3]);
    assert!(producer.outstanding(&queue, &[]).await.unwrap().is_empty());
}

pub(crate) async fn a_gateway_is_alive_until_its_roles_are_dropped(broker: &dyn Broker) {
    let worker = worker(broker).await;
    let (here, gone) = (Gateway::new(broker).await, Gateway::new(broker).await);
    let ids = [here.id, gone.id, GatewayId::random()];
    let alive = worker.gateways_alive(&ids).await.unwrap();
    assert_eq!(alive[..2], [true, true]);
    drop(gone);
    let left = Instant::now();
    while worker.gateways_alive(&ids).await.unwrap() != [true, false, false] {
        assert!(left.elapsed() < Duration::from_secs(6), "still counts as alive");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(worker.gateways_alive(&[]).await.unwrap().is_empty());
}

pub(crate) async fn a_claim_marks_jobs_of_unsubscribed_gateways(broker: &dyn Broker) {
    let worker = worker(broker).await;
    let (here, gone) = (Gateway::new(broker).await, Gateway::new(broker).await);
    // Reads `awaited` of one claimed job per gateway.
    let ids = [here.id, gone.id];
    let (producer, job) = (here.producer.clone(), here.job(0));
    let claimed = async || {
        for gateway in ids {
            producer.submit(&queue(), &Job { gateway, ..job.clone() }).await.unwrap();
        }
        let batch = worker.claim(2).await.unwrap();
        let of = |id| batch.iter().find(|delivery| delivery.job.gateway == id).unwrap().awaited;
        let awaited = ids.map(of);
        worker.settle(echoes(batch)).await.unwrap();
        awaited
    };
    assert_eq!(claimed().await, [true, true]);
    assert_eq!(claimed().await, [true, true]);
    drop(gone);
    let left = Instant::now();
    // A new worker starts in the liveness grace period.
    while claimed().await != [true, false] {
        assert!(left.elapsed() < Duration::from_secs(6), "still counts as subscribed");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn poison_is_answered_like_any_failure(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    gateway.submit(2).await;
    let mut settlements = echoes(worker.claim(2).await.unwrap());
    let poison = ReplyError { failure: Failure::Poison, message: "it kills".into() };
    settlements[1].reply.outcome = Err(poison.clone());
    assert_eq!(worker.settle(settlements).await.unwrap(), 0);
    let replies = gateway.receive().await;
    assert!(replies[0].outcome.is_ok());
    assert_eq!(replies[1].outcome, Err(poison));
}

pub(crate) async fn a_connected_broker_is_ready(broker: &dyn Broker) {
    assert!(Gateway::new(broker).await.producer.is_ready());
    assert_eq!(observer(broker).await.memory().await.unwrap(), []);
}
