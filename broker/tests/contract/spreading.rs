//! What only several shards do: they share the work, and each can be lost.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use batchfleet_broker::{
    Announcement, Broker, Delivery, Inbound, Observer, ShardId, WorkerId,
    memory::MemoryBroker,
    redis::{RedisAddress, RedisBroker},
    sharded::ShardedBroker,
};
use batchfleet_testkit::{RedisCluster, RedisServer};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    Gateway, Worker, again, echo, echoes, markers, observer, queue, shards::switched, spec,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Three shards that a queue of two workers would share, with a switch for each.
async fn shards() -> (ShardedBroker, Vec<Arc<AtomicBool>>) {
    let (mut shards, mut switches) = (Vec::new(), Vec::new());
    for number in 0..3 {
        let (shard, switch) = switched(MemoryBroker::new(1000));
        shards.push((format!("shard-{number}"), shard));
        switches.push(switch);
    }
    (ShardedBroker::new(shards, 1).await.unwrap(), switches)
}

/// Two shards: one that a worker prefers and that can be out of reach, and its home meanwhile.
async fn two_homes() -> (ShardedBroker, MemoryBroker, Arc<AtomicBool>) {
    let former = MemoryBroker::new(1000);
    let (preferred, is_down) = switched(MemoryBroker::new(1000));
    let shards =
        vec![("preferred".into(), preferred), ("former".into(), Arc::new(former.clone()) as _)];
    (ShardedBroker::new(shards, 8).await.unwrap(), former, is_down)
}

/// A worker of [`two_homes`] that moves to the shard that it prefers with its next renewal.
async fn about_to_move(broker: &dyn Broker, is_down: &AtomicBool) -> (Worker, Announcement) {
    is_down.store(true, Relaxed);
    let (worker, announcement) = announced(broker, 100.0).await;
    is_down.store(false, Relaxed);
    worker.renew(&announcement).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    (worker, announcement)
}

async fn announced(broker: &dyn Broker, capacity: f64) -> (Worker, Announcement) {
    let id = WorkerId::random();
    let worker = Worker::new(broker, id).await;
    let announcement = Announcement { capacity, ..Announcement::new(id, spec()) };
    worker.renew(&announcement).await.unwrap();
    (worker, announcement)
}

/// Starts workers until they live at several shards.
async fn spread_workers(broker: &dyn Broker, observer: &dyn Observer) -> Vec<Worker> {
    let gateway = Gateway::new(broker).await;
    let mut workers = Vec::new();
    loop {
        workers.push(announced(broker, 100.0).await.0);
        observer.look(&[], false).await.unwrap();
        let entries = gateway.submit(20).await;
        let first = entries[0].shard;
        for entry in &entries {
            gateway.producer.withdraw(&queue(), *entry).await.unwrap();
        }
        if entries.iter().any(|entry| entry.shard != first) {
            return workers;
        }
        assert!(workers.len() < 50, "all workers live at one shard");
    }
}

#[tokio::test]
async fn jobs_go_to_the_shards_of_all_workers_and_every_reply_arrives() {
    let (broker, _) = shards().await;
    let observer = observer(&broker).await;
    let workers = spread_workers(&broker, &*observer).await;
    let gateway = Gateway::new(&broker).await;
    let entries = gateway.submit(50).await;
    assert_eq!(observer.backlog(&queue()).await.unwrap().depth(), 50);
    let outstanding = gateway.producer.outstanding(&queue(), &entries).await.unwrap();
    assert_eq!(outstanding, [true; 50]);
    let mut claimed = 0;
    for worker in &workers {
        let deliveries = worker.claim(50).await.unwrap();
        claimed += deliveries.len();
        worker.settle(echoes(deliveries)).await.unwrap();
    }
    assert_eq!(claimed, 50);
    let mut replies = 0;
    while replies < 50 {
        replies += gateway.receive().await.len();
    }
    let outstanding = gateway.producer.outstanding(&queue(), &entries).await.unwrap();
    assert_eq!(outstanding, [false; 50]);
    assert_eq!(observer.look(&[queue()], false).await.unwrap().backlogs[0].depth(), 0);
}

#[tokio::test]
async fn the_jobs_of_a_lost_shard_are_sent_to_others_where_its_workers_move() {
    let (broker, switches) = shards().await;
    let observer = observer(&broker).await;
    let (worker, announcement) = announced(&broker, 100.0).await;
    observer.look(&[], false).await.unwrap();
    let gateway = Gateway::new(&broker).await;
    let entries = gateway.submit(3).await;
    assert!(entries.iter().all(|entry| entry.shard == ShardId(0)), "{entries:?}");
    assert_eq!(observer.outages(), [false; 3]);
    switches[0].store(true, Relaxed);
    assert_eq!(observer.outages(), [true, false, false]);
    assert!(observer.health().outage.is_none(), "the others can be used");
    let inbound = gateway.replies.lock().await.receive().await;
    assert!(matches!(inbound, Inbound::Interrupted(ShardId(0))), "{inbound:?}");
    let outstanding = gateway.producer.outstanding(&queue(), &entries).await.unwrap();
    assert_eq!(outstanding, [false; 3], "they are sent again");
    let entries = gateway.submit(3).await;
    assert!(entries.iter().all(|entry| entry.shard == ShardId(1)), "{entries:?}");
    worker.renew(&announcement).await.unwrap();
    let claimed = worker.claim(9).await.unwrap();
    assert_eq!(claimed.len(), 3);
    worker.settle(echoes(claimed)).await.unwrap();
    assert_eq!(gateway.receive().await.len(), 3);
}

#[tokio::test]
async fn waiting_jobs_leave_a_shard_without_workers() {
    let (broker, switches) = shards().await;
    let observer = observer(&broker).await;
    let (worker, announcement) = announced(&broker, 100.0).await;
    observer.look(&[], false).await.unwrap();
    let gateway = Gateway::new(&broker).await;
    let waiting = gateway.submit(3).await;
    assert_eq!(waiting[0].shard, ShardId(0));
    // The worker cannot reach its shard, and moves; the gateway still can.
    switches[0].store(true, Relaxed);
    worker.renew(&announcement).await.unwrap();
    switches[0].store(false, Relaxed);
    let until = Instant::now() + PATIENCE;
    loop {
        observer.look(&[], false).await.unwrap();
        let left = gateway.producer.outstanding(&queue(), &waiting).await.unwrap();
        if left == [false; 3] {
            break;
        }
        assert!(Instant::now() < until, "the jobs stay where no worker lives");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(gateway.submit(1).await[0].shard, ShardId(1));
    assert_eq!(worker.claim(9).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_moves_keeps_the_jobs_of_its_former_home_until_it_has_settled_them() {
    let (broker, former, is_down) = two_homes().await;
    is_down.store(true, Relaxed);
    let observer = observer(&broker).await;
    let (worker, announcement) = announced(&broker, 100.0).await;
    observer.look(&[], false).await.unwrap();
    let gateway = Gateway::new(&broker).await;
    let entries = gateway.submit(3).await;
    let claimed = worker.claim(9).await.unwrap();
    assert_eq!(claimed.len(), 3);
    is_down.store(false, Relaxed);
    let other = crate::worker(&former).await;
    // The worker moves after ten seconds.
    for _ in 0..20 {
        worker.renew(&announcement).await.unwrap();
        assert_eq!(markers(&other.reclaim(9).await.unwrap()), [0; 0]);
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(former.living_workers(&queue()).await.unwrap(), 0, "it is not announced there");
    worker.settle(echoes(claimed)).await.unwrap();
    assert_eq!(gateway.receive().await.len(), 3);
    let outstanding = gateway.producer.outstanding(&queue(), &entries).await.unwrap();
    assert_eq!(outstanding, [false; 3]);
    observer.look(&[], false).await.unwrap();
    assert_eq!(gateway.submit(1).await[0].shard, ShardId(0));
    assert_eq!(worker.claim(9).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn jobs_that_the_last_worker_of_a_shard_handed_back_wait_for_nothing() {
    let former = MemoryBroker::new(1000);
    let shards = vec![
        ("first".into(), Arc::new(MemoryBroker::new(1000)) as Arc<dyn Broker>),
        ("former".into(), Arc::new(former.clone()) as _),
    ];
    let broker = ShardedBroker::new(shards, 8).await.unwrap();
    let (_worker, _) = announced(&broker, 100.0).await;
    let (last, _) = announced(&former, 100.0).await;
    let gateway = Gateway::new(&former).await;
    gateway.submit(3).await;
    let observer = observer(&broker).await;
    let depth = async || observer.look(&[queue()], false).await.unwrap().backlogs[0].depth();
    assert_eq!(depth().await, 3);
    let claimed = last.claim(2).await.unwrap();
    last.hand_back(claimed).await.unwrap();
    assert_eq!(depth().await, 3);
    last.retire().await.unwrap();
    assert_eq!(depth().await, 0);
    observer.fleet().await.unwrap();
    assert_eq!(observer.backlog(&queue()).await.unwrap().depth(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_shard_is_lost_claims_at_its_new_home_at_once() {
    let (broker, switches) = shards().await;
    let observer = observer(&broker).await;
    let (worker, announcement) = announced(&broker, 100.0).await;
    observer.look(&[], false).await.unwrap();
    let gateway = Gateway::new(&broker).await;
    switches[0].store(true, Relaxed);
    let moves = async {
        // The worker has tried in vain for a while.
        for _ in 0..3 {
            assert_eq!(worker.claim(9).await.unwrap().len(), 0, "as if no job waited");
        }
        worker.claim(9).await.unwrap()
    };
    let gives = async {
        sleep(Duration::from_millis(3500)).await;
        worker.renew(&announcement).await.unwrap();
        observer.look(&[], false).await.unwrap();
        let entries = gateway.submit(2).await;
        assert_eq!(entries[0].shard, ShardId(1));
        Instant::now()
    };
    let came = async {
        let claimed = moves.await;
        (claimed, Instant::now())
    };
    let ((claimed, came), given) = tokio::join!(came, gives);
    assert!(!claimed.is_empty() && came - given < Duration::from_millis(10), "{:?}", came - given);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_moves_claims_at_both_homes_until_gateways_know() {
    let (broker, former, is_down) = two_homes().await;
    let (worker, announcement) = about_to_move(&broker, &is_down).await;
    let (at_both, late) = (Gateway::new(&broker).await, Gateway::new(&former).await);
    let moved = async {
        // The claim waits at the former home meanwhile.
        sleep(Duration::from_millis(100)).await;
        worker.renew(&announcement).await.unwrap();
        observer(&broker).await.look(&[], false).await.unwrap();
        let entries = at_both.submit(1).await;
        assert_eq!(entries[0].shard, ShardId(0));
        late.submit(1).await;
        Instant::now()
    };
    let claims = async {
        let mut claimed = Vec::new();
        while claimed.len() < 2 {
            claimed.extend(worker.claim(9).await.unwrap());
        }
        let mut shards: Vec<_> = claimed.iter().map(|delivery| delivery.entry.shard).collect();
        shards.sort();
        (shards, Instant::now())
    };
    let (given, (shards, came)) = tokio::join!(moved, claims);
    assert_eq!(shards, [ShardId(0), ShardId(1)]);
    assert!(came - given < Duration::from_millis(10), "{:?}", came - given);
    // Later, nothing is claimed at the former home.
    for _ in 0..3 {
        assert_eq!(worker.claim(9).await.unwrap().len(), 0);
    }
    late.submit(1).await;
    assert_eq!(worker.claim(9).await.unwrap().len(), 0);
}

/// A worker that has moved away from its first home, which counts as down, and the job that it holds
/// there. With the switches of both homes.
async fn moved_with_a_job(
    first: RedisBroker,
) -> (ShardedBroker, Worker, Announcement, Gateway, Delivery, [Arc<AtomicBool>; 2]) {
    let (first, first_is_down) = switched(first);
    let (second, second_is_down) = switched(MemoryBroker::new(1000));
    let shards = vec![("first".into(), first), ("second".into(), second)];
    let broker = ShardedBroker::new(shards, 8).await.unwrap();
    let (worker, announcement) = announced(&broker, 100.0).await;
    observer(&broker).await.look(&[], false).await.unwrap();
    let gateway = Gateway::new(&broker).await;
    assert_eq!(gateway.submit(1).await[0].shard, ShardId(0));
    let claimed = worker.claim(1).await.unwrap().remove(0);
    first_is_down.store(true, Relaxed);
    worker.renew(&announcement).await.unwrap();
    (broker, worker, announcement, gateway, claimed, [first_is_down, second_is_down])
}

#[tokio::test]
async fn a_job_of_a_former_home_whose_slot_moves_is_settled_in_the_end() {
    let cluster = RedisCluster::start(3).await;
    let address = RedisAddress { partition: 0, ..cluster.url(1).as_str().into() };
    let first = RedisBroker::connect(address).await.unwrap();
    let (_broker, worker, _, gateway, job, [is_down, _]) = moved_with_a_job(first).await;
    is_down.store(false, Relaxed);
    cluster.move_slot(247, 0, 2).await.unwrap();
    let (entry, until) = ([job.entry], Instant::now() + PATIENCE);
    while let Err(error) = worker.settle(vec![again(&job)]).await {
        assert_eq!(error.code(), "unreachable", "{error}");
        assert!(Instant::now() < until, "{error}");
    }
    let outstanding = async || gateway.producer.outstanding(&queue(), &entry).await;
    let outstanding = loop {
        match outstanding().await {
            Ok(outstanding) => break outstanding,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    assert_eq!(outstanding, [false], "the worker has left a job that nobody takes over");
}

#[tokio::test]
async fn a_job_that_a_worker_gave_up_with_its_home_is_not_run_when_redis_is_back_with_its_data() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes"]).await;
    let first = RedisBroker::connect(&redis.url()).await.unwrap();
    let (_broker, worker, announcement, _gateway, job, [first_is_down, second_is_down]) =
        moved_with_a_job(first).await;
    redis.kill();
    assert_eq!(worker.settle(vec![echo(job)]).await.unwrap(), 0, "it is sent to the second home");
    redis.restart().await;
    let control = RedisBroker::connect(&redis.url()).await.unwrap();
    let observer = observer(&control).await;
    assert_eq!(observer.backlog(&queue()).await.unwrap().in_flight, 1);
    first_is_down.store(false, Relaxed);
    second_is_down.store(true, Relaxed);
    let until = Instant::now() + PATIENCE;
    while observer.backlog(&queue()).await.unwrap().in_flight > 0 {
        // Fails until the connection is back.
        worker.renew(&announcement).await.ok();
        let claimed = worker.claim(9).await.unwrap_or_default();
        assert!(claimed.is_empty(), "run again");
        assert!(Instant::now() < until, "the job stays with its worker");
    }
}

/// A claim may hold locks that the settlement of other jobs needs.
#[tokio::test(start_paused = true)]
async fn a_claim_that_has_begun_goes_on_when_no_call_waits_for_it() {
    let (broker, former, is_down) = two_homes().await;
    let (worker, announcement) = about_to_move(&broker, &is_down).await;
    worker.renew(&announcement).await.unwrap();
    let observer = observer(&broker).await;
    observer.look(&[], false).await.unwrap();
    let (at_home, late) = (Gateway::new(&broker).await, Gateway::new(&former).await);
    late.submit(1).await;
    // The claim at home waits on.
    assert_eq!(worker.claim(9).await.unwrap()[0].entry.shard, ShardId(1));
    assert_eq!(at_home.submit(1).await[0].shard, ShardId(0));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(observer.backlog(&queue()).await.unwrap().depth(), 0);
    assert_eq!(worker.claim(9).await.unwrap()[0].entry.shard, ShardId(0));
}

#[tokio::test(start_paused = true)]
async fn the_jobs_of_a_worker_that_died_alone_at_a_shard_are_sent_to_another() {
    let (broker, former, is_down) = two_homes().await;
    let (dies, _) = announced(&former, 100.0).await;
    let observer = observer(&broker).await;
    observer.look(&[], false).await.unwrap();
    let gateway = Gateway::new(&broker).await;
    is_down.store(true, Relaxed);
    let entries = gateway.submit(2).await;
    assert_eq!(entries[0].shard, ShardId(1));
    assert_eq!(dies.claim(9).await.unwrap().len(), 2);
    is_down.store(false, Relaxed);
    let (lives, announcement) = announced(&broker, 100.0).await;
    let mut outstanding = vec![true; 2];
    // It counts as dead after three seconds, and its jobs as abandoned six seconds later.
    for second in 0..12 {
        lives.renew(&announcement).await.unwrap();
        observer.look(&[], false).await.unwrap();
        outstanding = gateway.producer.outstanding(&queue(), &entries).await.unwrap();
        assert!(second > 8 || outstanding == [true; 2], "after {second} s");
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(outstanding, [false; 2]);
    assert_eq!(gateway.submit(1).await[0].shard, ShardId(0));
}
