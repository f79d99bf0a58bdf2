//! Connections that report answers which show that another server has the keys.

use std::{sync::Arc, time::Duration};

use redis::{
    Cmd, Pipeline, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use super::{errors::is_elsewhere, locator::Locator};

/// A connection for commands. In a cluster, it makes the locator look for the partition again once an
/// answer shows that the partition moves.
#[derive(Clone)]
pub(super) struct RoutedConnection {
    connection: MultiplexedConnection,
    locator: Arc<Locator>,
}

impl RoutedConnection {
    pub(super) fn new(connection: MultiplexedConnection, locator: Arc<Locator>) -> Self {
        Self { connection, locator }
    }

    /// The connection itself.
    pub(super) fn inner(&mut self) -> &mut MultiplexedConnection {
        &mut self.connection
    }

    /// Sets the timeout for answers.
    pub(super) fn set_response_timeout(&mut self, timeout: Duration) {
        self.connection.set_response_timeout(timeout);
    }

    /// Whether an answer, or one of several, shows that another server has the keys.
    fn report(&self, answers: &RedisResult<impl AsRef<[Value]>>) {
        if !self.locator.is_of_cluster() {
            return;
        }
        let is_elsewhere = match answers {
            Ok(answers) => answers.as_ref().iter().any(|answer| match answer {
                Value::ServerError(error) => is_elsewhere(error.code()),
                _ => false,
            }),
            Err(error) => error
                .clone()
                .into_server_errors()
                .is_some_and(|errors| errors.iter().any(|(_, error)| is_elsewhere(error.code()))),
        };
        if is_elsewhere {
            self.locator.suspect();
        }
    }
}

impl ConnectionLike for RoutedConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let answer = self.connection.req_packed_command(command).await;
            let answer = answer.map(|answer| [answer]);
            self.report(&answer);
            answer.map(|[answer]| answer)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let answers = self.connection.req_packed_commands(pipeline, offset, count).await;
            self.report(&answers);
            answers
        })
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
