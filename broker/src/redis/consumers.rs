//! `XINFO CONSUMERS`: the workers of a stream, and the number of entries that each worker holds.

use redis::{
    Cmd, Pipeline, RedisError, Value,
    aio::ConnectionLike,
    streams::{StreamInfoConsumer, StreamInfoConsumersReply},
};

use super::{
    errors::{broker_error, lost_queue},
    keys,
};
use crate::BrokerError;

/// Builds the query for one stream.
pub(super) fn question(stream: &str) -> Cmd {
    let mut question = redis::cmd("XINFO");
    question.arg("CONSUMERS").arg(stream).arg(keys::GROUP);
    question
}

/// Builds the queries for several streams. An error affects only the answer of its own query.
pub(super) fn questions(streams: &[String]) -> Pipeline {
    let mut questions = Pipeline::new();
    for stream in streams {
        questions.add_command(question(stream));
    }
    questions.ignore_errors();
    questions
}

/// Parses the answer for one stream. A missing stream or group has no workers.
pub(super) fn parse(answer: Value) -> Result<Vec<StreamInfoConsumer>, BrokerError> {
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
    let answers: Vec<Value> =
        questions(streams).query_async(connection).await.map_err(broker_error)?;
    answers.into_iter().map(parse).collect()
}
