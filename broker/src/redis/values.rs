//! Parses values in Redis's answers.

use bytes::Bytes;
use redis::{FromRedisValue, RedisError, Value};

/// Redis's clock in milliseconds, from an answer to `TIME`.
pub(super) fn milliseconds((seconds, microseconds): (u64, u64)) -> u64 {
    seconds * 1000 + microseconds / 1000
}

/// The bytes of a bulk string, without copying them.
pub(super) fn into_bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}

/// Parses one answer of a pipeline in which each command can fail on its own.
pub(super) fn parse<T: FromRedisValue>(answer: Option<Value>) -> Result<T, RedisError> {
    Ok(redis::from_redis_value(answer.unwrap_or(Value::Nil).extract_error()?)?)
}
