//! `XINFO CONSUMERS`: the workers of a stream, and the number of entries that each worker holds.

use redis::{
    Pipeline, RedisError, Value,
    aio::ConnectionLike,
    streams::{StreamInfoConsumer, StreamInfoConsumersReply},
};

use super::{
    errors::{broker_error, lost_queue},
    keys,
};
use crate::BrokerError;

/// Parses the answer for one stream. A missing stream or group has no workers.
fn parse(answer: Value) -> Result<Vec<StreamInfoConsumer>, BrokerError> {
    let consumers = answer.extract_error().and_then(|value| {
        redis::from_redis_value::<StreamInfoConsumersReply>(value).map_err(RedisError::from)
    });
    match consumers {
        Err(error) if lost_queue(&error) => Ok(Vec::new()),
        consumers => Ok(consumers.map_err(broker_error)?.consumers),
    }
}

/// Reads the workers of each stream.
pub(super) async fn read(
    connection: &mut impl ConnectionLike,
    streams: &[String],
) -> Result<Vec<Vec<StreamInfoConsumer>>, BrokerError> {
    let mut questions = Pipeline::new();
    for stream in streams {
        questions.cmd("XINFO").arg("CONSUMERS").arg(stream).arg(keys::GROUP);
    }
    // An error affects only the answer of its own query.
    questions.ignore_errors();
    let answers: Vec<Value> = questions.query_async(connection).await.map_err(broker_error)?;
    answers.into_iter().map(parse).collect()
}
