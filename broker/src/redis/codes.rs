//! Reads the codes of errors that Redis returned.

use redis::RedisError;

/// The code of the first error that the server returned, also within a pipeline.
pub(super) fn server_code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.code().to_owned())
}
