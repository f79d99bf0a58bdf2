//! A Redis Cluster, whose partitions move between nodes.

use std::time::Duration;

use batchfleet_broker::{
    Announcement, Broker as _, Delivery, Inbound, Reply, Settlement, Timing, Wish, WorkerId,
    redis::{Denials, RedisAddress, RedisBroker, acl, denials},
};
use batchfleet_testkit::{RedisCluster, RedisServer};
use tokio::time::{Instant, timeout};

use super::{PATIENCE, Pair, administrator, answer, model, queue, refused};

/// The slot of partition 0.
const SLOT: u16 = 247;
/// The master that has this slot at first, and another one.
const OWNER: usize = 0;
const OTHER: usize = 2;

/// Answers everything that is claimed, until the request has its reply. Submits again what the
/// subscription may have lost.
async fn serves_in_the_end(pair: &Pair) {
    let since = Instant::now();
    loop {
        assert!(since.elapsed() < PATIENCE, "no reply");
        let id = pair.submit_at_last().await;
        let batch = pair.claim(10).await.unwrap_or_default();
        // Fails while the partition moves.
        pair.consumer.settle(batch.into_iter().map(answer).collect()).await.ok();
        // A gateway subscribes again only while it receives.
        while let Ok(inbound) = timeout(Duration::from_secs(1), pair.inbound()).await {
            if matches!(inbound, Inbound::Replies(replies) if replies.iter().any(|it| it.id == id))
            {
                return;
            }
        }
    }
}

/// The answer to a delivery, which may be given again.
fn again(Delivery { entry, job, .. }: &Delivery) -> Settlement {
    let outcome = Ok(job.inputs.clone());
    let (timing, digest) = (Timing::default(), job.digest);
    let reply = Reply { id: job.id, attempt: job.attempt, digest, timing, outcome, pushed: None };
    Settlement { entry: *entry, gateway: job.gateway, reply }
}

/// The names of all keys of a server.
async fn names(server: &RedisServer) -> Vec<String> {
    let mut redis = administrator(server).await;
    redis::cmd("KEYS").arg("*").query_async(&mut redis).await.unwrap()
}

#[tokio::test]
async fn all_names_of_a_partition_are_at_one_node() {
    let mut cluster = RedisCluster::start(3).await;
    // A large reply has a key of its own.
    let pair = Pair::new(&cluster.url(1)).await;
    pair.serves().await;
    let job = pair.job(1 << 20);
    pair.producer.submit(&queue(), &job).await.unwrap();
    let batch = pair.claim_at_last().await;
    let settled = pair.consumer.settle(batch.into_iter().map(answer).collect()).await;
    assert_eq!(settled.unwrap(), 0, "the gateway listens");
    assert!(matches!(pair.receive().await, Inbound::Replies(replies) if replies[0].id == job.id));
    for (number, master) in cluster.masters().iter().enumerate() {
        let names = names(master).await;
        assert_eq!(names.is_empty(), number != OWNER, "{number}: {names:?}");
        assert!(names.iter().all(|name| name.starts_with("bf:{10}:")), "{names:?}");
    }
}

#[tokio::test]
async fn a_partition_that_moves_to_another_node_and_back_is_followed() {
    let mut cluster = RedisCluster::start(3).await;
    let pair = Pair::new(&cluster.url(1)).await;
    pair.serves().await;
    for (from, to) in [(OWNER, OTHER), (OTHER, OWNER), (OWNER, OTHER)] {
        cluster.move_slot(SLOT, from, to).await.unwrap();
        serves_in_the_end(&pair).await;
    }
    let stream = "bf:{10}:{model:1}:q:default";
    let owner = &cluster.masters()[OTHER];
    let length = owner.ask(&format!("XLEN {stream}")).await.unwrap();
    assert!(length.contains(":0"), "jobs stay in the queue: {length}");
}

#[tokio::test]
async fn a_job_is_answered_once_whose_partition_moves_while_it_runs() {
    let cluster = RedisCluster::start(3).await;
    let pair = Pair::new(&cluster.url(1)).await;
    pair.serves().await;
    let id = pair.submit_at_last().await;
    let batch = pair.claim_at_last().await;
    cluster.move_slot(SLOT, OWNER, OTHER).await.unwrap();
    // The gateway hears that its subscription ended, and subscribes at the other node.
    assert!(matches!(pair.receive().await, Inbound::Interrupted(_)));
    let since = Instant::now();
    let settle = || batch.iter().map(again).collect();
    while let Err(error) = pair.consumer.settle(settle()).await {
        assert_eq!(error.code(), "unreachable", "{error}");
        assert!(since.elapsed() < PATIENCE, "{error}");
    }
    let reply = loop {
        if let Inbound::Replies(replies) = pair.receive().await {
            break replies;
        }
    };
    assert_eq!(reply[0].id, id);
    // Nothing is left to claim.
    assert!(pair.claim(10).await.unwrap().is_empty());
}

/// Valkey lets a node that has handed over a stream publish the replies of its entries, and delete none.
#[tokio::test]
async fn a_settled_job_that_another_node_has_got_is_not_run_again() {
    let mut cluster = RedisCluster::start(3).await;
    let pair = Pair::new(&cluster.url(1)).await;
    let id = pair.submit_at_last().await;
    let batch = pair.claim_at_last().await;
    let stream = "bf:{10}:{model:1}:q:default";
    let mut owner = administrator(&cluster.masters()[OWNER]).await;
    let dump = redis::cmd("DUMP").arg(stream).clone();
    let stored: Vec<u8> = dump.query_async(&mut owner).await.unwrap();
    let delete = redis::cmd("XTRIM").arg(stream).arg("MAXLEN").arg(0).clone();
    delete.exec_async(&mut owner).await.unwrap();
    pair.consumer.settle(batch.into_iter().map(answer).collect()).await.unwrap();
    assert!(matches!(pair.receive().await, Inbound::Replies(replies) if replies[0].id == id));
    // As the next node has it.
    let mut restore = redis::cmd("RESTORE");
    restore.arg(stream).arg(0).arg(stored).arg("REPLACE").exec_async(&mut owner).await.unwrap();
    let kill = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").clone();
    kill.exec_async(&mut owner).await.unwrap();
    let since = Instant::now();
    loop {
        match pair.claim(10).await {
            Ok(batch) => break assert!(batch.is_empty(), "run again"),
            Err(error) => assert_eq!(error.code(), "unreachable", "{error}"),
        }
        assert!(since.elapsed() < PATIENCE, "no claim");
    }
    let length: usize = redis::cmd("XLEN").arg(stream).query_async(&mut owner).await.unwrap();
    assert_eq!(length, 0);
}

#[tokio::test]
async fn a_master_of_a_cluster_that_dies_is_followed_by_its_replica() {
    let mut cluster = RedisCluster::start_with_replicas(3).await;
    let pair = Pair::new(&cluster.url(1)).await;
    pair.serves().await;
    cluster.masters()[OWNER].kill();
    serves_in_the_end(&pair).await;
    let replica = &cluster.replicas()[OWNER];
    assert!(replica.ask("ROLE").await.unwrap().contains("master"));
}

#[tokio::test]
async fn a_planned_failover_of_a_master_of_a_cluster_is_followed() {
    let mut cluster = RedisCluster::start_with_replicas(3).await;
    let pair = Pair::new(&cluster.url(1)).await;
    pair.serves().await;
    cluster.fail_over(OWNER).await.unwrap();
    serves_in_the_end(&pair).await;
    assert!(cluster.masters()[OWNER].ask("ROLE").await.unwrap().contains("slave"));
}

#[tokio::test]
async fn an_address_that_does_not_fit_the_redis_is_refused_with_advice() {
    let alone = RedisServer::start().await;
    let error = refused(&alone.url().replace("redis://", "redis+cluster://")).await;
    assert!(error.contains("Redis is no cluster"), "{error}");
    let mut cluster = RedisCluster::start(3).await;
    let error = refused(&cluster.masters()[0].url()).await;
    assert!(error.contains("redis+cluster://"), "{error}");
    Pair::new(&cluster.url(4)).await;
    let error = refused(&cluster.url(3)).await;
    assert!(error.contains("4 partitions") && error.contains("with 3"), "{error}");
}

#[tokio::test]
async fn the_user_of_a_model_serves_a_partition() {
    let mut cluster = RedisCluster::start(3).await;
    let rules = acl::worker_in_cluster(Some("model"));
    for master in cluster.masters() {
        let answer = master.ask(&format!("ACL SETUSER worker on >secret {rules}")).await.unwrap();
        assert!(answer.ends_with("+OK\r\n"), "{answer}");
    }
    let url = cluster.url(1);
    let worker = url.replace("//", "//worker:secret@");
    let broker = async |url: &str| RedisBroker::connect(RedisAddress::from(url)).await.unwrap();
    let (of_gateway, of_worker) = (broker(&url).await, broker(&worker).await);
    let pair = Pair::between(&of_gateway, &of_worker).await;
    pair.serves().await;
    cluster.move_slot(SLOT, OWNER, OTHER).await.unwrap();
    serves_in_the_end(&pair).await;
}

#[tokio::test]
async fn the_users_of_the_chart_have_all_rights_that_programs_need_on_a_cluster() {
    let mut cluster = RedisCluster::start(3).await;
    let users = include_str!("../../../helm/batchfleet/files/users-cluster.acl");
    let users: Vec<_> = users.lines().filter_map(|line| line.strip_prefix("user ")).collect();
    let worker = format!("worker reset on {}", acl::worker_in_cluster(None));
    assert!(users.contains(&worker.as_str()), "as `batchfleet redis-acl --cluster` prints it");
    for master in cluster.masters() {
        for user in users.iter().filter(|user| !user.starts_with("default")) {
            let answer = master.ask(&format!("ACL SETUSER {user} >secret")).await.unwrap();
            assert!(answer.ends_with("+OK\r\n"), "{answer}");
        }
    }
    let url = cluster.url(1);
    let broker = async |user: &str| {
        RedisBroker::connect(&url.replace("//", &format!("//{user}:secret@"))).await.unwrap()
    };
    let (of_gateway, of_worker) = (broker("gateway").await, broker("worker").await);
    let pair = Pair::between(&of_gateway, &of_worker).await;
    pair.serves().await;
    let worker = WorkerId::random();
    let roles = of_worker.worker(queue(), worker).await.unwrap();
    roles.consumer.renew(&Announcement::new(worker, model())).await.unwrap();
    let of_controller = broker("controller").await;
    let controller = of_controller.controller().await.unwrap();
    controller.publish(&queue(), Wish::default()).await.unwrap();
    for broker in [of_gateway, of_controller] {
        let observer = broker.observer().await.unwrap();
        assert_eq!(observer.fleet().await.unwrap().workers.len(), 1);
        assert_eq!(observer.backlog(&queue()).await.unwrap().depth(), 0);
        assert!(observer.news().await.unwrap().is_some());
    }
    assert_eq!(denials(), Denials::default());
}
