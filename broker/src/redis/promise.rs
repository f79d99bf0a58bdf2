//! What controllers promise of models that nobody serves: one hash, a field per queue. And the names
//! of workers that are gone.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use redis::{
    Pipeline, Value,
    aio::ConnectionLike,
    streams::{StreamInfoConsumer, StreamInfoConsumersReply as Consumers},
};

use super::{
    connect::{broker_error, milliseconds},
    consumer::Renewal,
    keys,
    reclaim::lost_queue,
};
use crate::{
    Announcement, BrokerError, Promise, QueueName,
    roles::{PROMISED, REMEMBERED},
};

pub(super) async fn make(
    connection: &mut impl ConnectionLike,
    expected: &Announcement,
) -> Result<(), BrokerError> {
    let time = redis::cmd("TIME").query_async(connection).await.map_err(broker_error)?;
    let said = Renewal { announcement: expected.clone(), seen: milliseconds(time) };
    let said = serde_json::to_string(&said).map_err(BrokerError::refused)?;
    let mut set = redis::cmd("HSET");
    set.arg(keys::PROMISES).arg(expected.model.queue.to_string()).arg(said);
    set.exec_async(connection).await.map_err(broker_error)
}

/// The promises of the last hour; an old one no longer holds, but its model stays known.
pub(super) fn read(promises: &HashMap<String, String>, now: u64) -> Vec<Promise> {
    let parse = |promise: &String| {
        let Renewal { announcement, seen } = serde_json::from_str(promise).ok()?;
        let age = Duration::from_millis(now.saturating_sub(seen));
        let promise = Promise { expected: announcement, holds: age < PROMISED };
        (age < REMEMBERED).then_some(promise)
    };
    promises.values().filter_map(parse).collect()
}

/// The consumers of each of these streams; none where there is no stream.
pub(super) async fn consumers(
    connection: &mut impl ConnectionLike,
    streams: &[String],
) -> Result<Vec<Vec<StreamInfoConsumer>>, BrokerError> {
    let mut look = Pipeline::new();
    for stream in streams {
        look.cmd("XINFO").arg("CONSUMERS").arg(stream).arg(keys::GROUP);
    }
    let answers: Vec<Value> =
        look.ignore_errors().query_async(connection).await.map_err(broker_error)?;
    let parse = |answer: Value| {
        let consumers = answer.extract_error().and_then(|value| {
            redis::from_redis_value::<Consumers>(value).map_err(redis::RedisError::from)
        });
        match consumers {
            Err(error) if lost_queue(&error) => Ok(Vec::new()),
            consumers => Ok(consumers.map_err(broker_error)?.consumers),
        }
    };
    answers.into_iter().map(parse).collect()
}

/// Takes out of a queue's groups who has neither held nor claimed anything for so long. Whoever
/// lives asks for jobs every second, and would only be noted anew.
pub(super) async fn forget(
    connection: &mut impl ConnectionLike,
    queue: &QueueName,
    silent: Duration,
) -> Result<usize, BrokerError> {
    let streams = keys::queue(queue);
    let classes = consumers(connection, &streams).await?;
    let gone = |consumer: &&StreamInfoConsumer| {
        consumer.pending == 0 && Duration::from_millis(consumer.idle as u64) >= silent
    };
    // In every class, or not at all.
    let there: HashSet<&str> = classes.iter().flatten().filter(|c| !gone(c)).map(name).collect();
    let (mut forget, mut forgotten) = (Pipeline::new(), HashSet::new());
    for (stream, consumers) in streams.iter().zip(&classes) {
        for consumer in consumers.iter().map(name).filter(|name| !there.contains(name)) {
            let command = forget.cmd("XGROUP").arg("DELCONSUMER").arg(stream);
            command.arg(keys::GROUP).arg(consumer).ignore();
            forgotten.insert(consumer);
        }
    }
    if !forgotten.is_empty() {
        forget.exec_async(connection).await.map_err(broker_error)?;
    }
    Ok(forgotten.len())
}

fn name(consumer: &StreamInfoConsumer) -> &str {
    &consumer.name
}
