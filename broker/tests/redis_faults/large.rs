//! Large replies.

use std::collections::HashSet;

use batchfleet_broker::{BrokerError, Failure, Inbound, redis::RedisBroker};
use batchfleet_testkit::RedisServer;
use redis::AsyncTypedCommands;
use tokio::time::Instant;

use crate::{Pair, administrator, answer, queue};

#[tokio::test]
async fn a_batch_of_large_replies_does_not_cost_a_gateway_its_subscription() {
    let limit = ["--client-output-buffer-limit", "pubsub 2mb 2mb 1"];
    let server = RedisServer::start_with(&limit).await;
    let pair = Pair::new(&server.url()).await;
    let job = pair.job(1_500_000);
    let mut owed = HashSet::new();
    for number in 0..8 {
        let id = batchfleet_broker::RequestId(number);
        let job = batchfleet_broker::Job { id, ..job.clone() };
        pair.producer.submit(&queue(), &job).await.unwrap();
        owed.insert(id);
    }
    let batch = pair.claim(8).await.unwrap();
    let settlements = batch.into_iter().map(answer).collect();
    assert_eq!(pair.consumer.settle(settlements).await.unwrap(), 0);
    while !owed.is_empty() {
        match pair.receive().await {
            Inbound::Replies(replies) => {
                for reply in replies {
                    assert_eq!(reply.outcome.unwrap(), job.inputs);
                    assert!(owed.remove(&reply.id), "answered twice");
                }
            }
            Inbound::Interrupted(_) => panic!("the subscription was cut, {} are owed", owed.len()),
        }
    }
    let left = administrator(&server).await.keys("*parcel*").await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// A reply or job that is larger than Redis takes is refused, and the connections stay usable.
#[tokio::test]
async fn a_value_that_redis_does_not_take_is_refused_in_words() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let limit = (2_u64 << 20).to_string();
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("proto-max-bulk-len").arg(limit);
    set.exec_async(&mut administrator(&server).await).await.unwrap();
    refuses_large_values(&pair).await;
}

/// The users of the chart may not read the setting.
#[tokio::test]
async fn users_of_the_chart_find_out_how_large_values_may_be() {
    let server = RedisServer::start_with(&["--proto-max-bulk-len", "2mb"]).await;
    let users = include_str!("../../../helm/batchfleet/files/users.acl");
    for user in users.lines().filter_map(|line| line.strip_prefix("user ")) {
        if user.starts_with("gateway") || user.starts_with("worker") {
            server.ask(&format!("ACL SETUSER {user} >secret")).await.unwrap();
        }
    }
    let [gateway, worker] = ["gateway", "worker"].map(|user| {
        let url = format!("redis://{user}:secret@{}", server.address());
        async move { RedisBroker::connect(&url).await.unwrap() }
    });
    let pair = Pair::between(&gateway.await, &worker.await).await;
    refuses_large_values(&pair).await;
    let received = server.info("total_net_input_bytes").await.unwrap();
    assert!(received < 2 << 20, "a value was sent: {received} bytes");
}

/// A user who may not find out the limit learns it from the refusal, which closes no connection that
/// carries small commands.
#[tokio::test]
async fn a_refused_job_costs_no_small_command_its_connection() {
    let server = RedisServer::start_with(&["--proto-max-bulk-len", "2mb"]).await;
    let rules = "on >secret ~* &* +@all -config -getbit";
    server.ask(&format!("ACL SETUSER some {rules}")).await.unwrap();
    let pair = Pair::new(&format!("redis://some:secret@{}", server.address())).await;
    let link = link(&server, &pair).await;
    let job = pair.job(3 << 20);
    // Redis closes the connection, and its reason may get lost: the job counts as perhaps sent.
    let until = Instant::now() + crate::PATIENCE;
    while pair.producer.submit(&queue(), &job).await.unwrap_err().code() != "too_large" {
        assert!(Instant::now() < until, "the reason was lost each time");
    }
    let clients = server.ask("CLIENT LIST").await.unwrap();
    assert!(clients.contains(&link), "a connection was lost: {clients}");
    let received = server.info("total_net_input_bytes").await.unwrap();
    assert_eq!(pair.producer.submit(&queue(), &job).await.unwrap_err().code(), "too_large");
    let again = server.info("total_net_input_bytes").await.unwrap() - received;
    assert!(again < 1 << 20, "the job was sent again: {again} bytes");
    pair.serves().await;
}

/// The client id, as in `CLIENT LIST`, of the connection on which replies are sent.
async fn link(server: &RedisServer, pair: &Pair) -> String {
    let until = Instant::now() + crate::PATIENCE;
    loop {
        pair.serves().await;
        let clients = server.ask("CLIENT LIST").await.unwrap();
        // The background tasks may have sent another command since.
        if let Some(client) = clients.lines().find(|client| client.contains(" cmd=exec ")) {
            let start = client.find("id=").unwrap();
            return client[start..=start + client[start..].find(' ').unwrap()].to_owned();
        }
        assert!(Instant::now() < until, "no connection for replies: {clients}");
    }
}

async fn refuses_large_values(pair: &Pair) {
    let mut large = pair.job(1);
    large.inputs[0].data = vec![7; 3 << 20].into();
    let error = pair.producer.submit(&queue(), &large).await.unwrap_err();
    let BrokerError::TooLarge { size, limit } = error else { panic!("{error}") };
    assert!(size > 3 << 20 && limit == 2 << 20, "{size} {limit}");

    let small = pair.job(2);
    pair.producer.submit(&queue(), &small).await.unwrap();
    let mut delivery = pair.claim_at_last().await.remove(0);
    delivery.job.inputs[0].data = large.inputs[0].data.clone();
    assert_eq!(pair.consumer.settle(vec![answer(delivery)]).await.unwrap(), 0);
    let Inbound::Replies(replies) = pair.receive().await else { panic!("interrupted") };
    let error = replies[0].outcome.as_ref().unwrap_err();
    assert_eq!(error.failure, Failure::Model);
    let sizes = "the answer has 3.0 MiB, but Redis takes at most 2.0 MiB as one value";
    assert!(error.message.starts_with(sizes), "{error}");
    pair.serves().await;
}

#[tokio::test]
async fn replies_that_expire_before_they_are_fetched_are_an_interruption() {
    let server = RedisServer::start().await;
    let pair = Pair::new(&server.url()).await;
    let note = [&[0; 9], &b"bf:{model:1}:parcel:gone"[..]].concat();
    let channel = format!("bf:reply:{}", pair.gateway);
    assert_eq!(administrator(&server).await.publish(channel, note).await.unwrap(), 1);
    assert!(matches!(pair.receive().await, Inbound::Interrupted(_)));
    pair.serves().await;
}
