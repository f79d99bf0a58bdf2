//! `XINFO CONSUMERS`: the workers of a stream, and how many entries each holds.

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

/// The question about one stream.
pub(super) fn question(stream: &str) -> Cmd {
    let mut question = redis::cmd("XINFO");
    question.arg("CONSUMERS").arg(stream).arg(keys::GROUP);
    question
}

/// The questions about these streams; an error is the answer of its question only.
pub(super) fn questions(streams: &[String]) -> Pipeline {
    let mut questions = Pipeline::new();
    for stream in streams {
        questions.add_command(question(stream));
    }
    questions.ignore_errors();
    questions
}

/// The answer about one stream; no workers where there is no such stream or group.
pub(super) fn parse(answer: Value) -> Result<Vec<StreamInfoConsumer>, BrokerError> {
    let consumers = answer.extract_error().and_then(|value| {
        redis::from_redis_value::<StreamInfoConsumersReply>(value).map_err(RedisError::from)
    });
    match consumers {
        Err(error) if lost_queue(&error) => Ok(Vec::new()),
        consumers => Ok(consumers.map_err(broker_error)?.consumers),
    }
}

/// The workers of each of these streams.
pub(super) async fn read(
    connection: &mut impl ConnectionLike,
    streams: &[String],
) -> Result<Vec<Vec<StreamInfoConsumer>>, BrokerError> {
    let answers: Vec<Value> =
        questions(streams).query_async(connection).await.map_err(broker_error)?;
    answers.into_iter().map(parse).collect()
}
