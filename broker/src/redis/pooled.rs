//! The connections of the pool. Each remembers whether its last command was answered, so that it need
//! not be checked before every use.

use std::{sync::Arc, time::Duration};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_redis::Manager;
use redis::{
    Client, Cmd, ErrorKind, Pipeline, PushInfo, PushKind, RedisError, RedisFuture, Value,
    aio::ConnectionLike,
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    connect::{PATIENCE, connection_config},
    locator::Locator,
    routed::RoutedConnection,
};

/// How long an answer proves that a connection works. Less than the usual timeout of routers for idle
/// connections.
const PROVEN_FOR: Duration = Duration::from_secs(10);

/// Opens and checks connections to one server.
pub(super) struct PoolManager {
    pub(super) client: Client,
    pub(super) locator: Arc<Locator>,
}

/// A connection of the pool.
pub(super) struct PooledConnection {
    /// Opened and checks this connection alone, because the pushes are those of one connection.
    manager: Manager,
    connection: RoutedConnection,
    pushes: mpsc::UnboundedReceiver<PushInfo>,
    /// When Redis last answered; `None` if the last command was not answered.
    answered: Option<Instant>,
}

impl managed::Manager for PoolManager {
    type Type = PooledConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<PooledConnection, RedisError> {
        let (sender, pushes) = mpsc::unbounded_channel();
        let config = connection_config().set_push_sender(sender);
        let server = self.client.get_connection_info().clone();
        let manager = Manager::new_with_config(server, config)?;
        let mut connection = managed::Manager::create(&manager).await?;
        self.locator.check(&mut connection).await?;
        let connection = RoutedConnection::new(connection, Arc::clone(&self.locator));
        Ok(PooledConnection { manager, connection, pushes, answered: Some(Instant::now()) })
    }

    /// Discards a connection that was closed or whose check fails. The check is a round trip, so it is
    /// made only if there is a doubt.
    async fn recycle(
        &self,
        pooled: &mut PooledConnection,
        metrics: &Metrics,
    ) -> RecycleResult<RedisError> {
        while let Ok(push) = pooled.pushes.try_recv() {
            if push.kind == PushKind::Disconnection {
                return Err(RecycleError::message("the connection was closed"));
            }
        }
        pooled.set_patience(PATIENCE);
        if pooled.answered.is_none_or(|answered| answered.elapsed() >= PROVEN_FOR) {
            let PooledConnection { manager, connection, .. } = pooled;
            managed::Manager::recycle(manager, connection.inner(), metrics).await?;
            pooled.answered = Some(Instant::now());
        }
        Ok(())
    }
}

impl PooledConnection {
    /// The connection without the pool.
    pub(super) fn into_inner(self) -> RoutedConnection {
        self.connection
    }

    /// Sets the timeout for answers, until the connection returns to the pool.
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.connection.set_response_timeout(patience);
    }

    /// Whether Redis has answered the last command.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.is_some()
    }

    /// Records whether Redis has answered, be it with an error.
    fn note<T>(&mut self, outcome: &Result<T, RedisError>) {
        let is_answer = match outcome {
            Ok(_) => true,
            Err(error) => matches!(error.kind(), ErrorKind::Server(_)),
        };
        self.answered = is_answer.then(Instant::now);
    }
}

impl ConnectionLike for PooledConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            // Stays so if the caller gives up.
            self.answered = None;
            let outcome = self.connection.req_packed_command(command).await;
            self.note(&outcome);
            outcome
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            self.answered = None;
            let outcome = self.connection.req_packed_commands(pipeline, offset, count).await;
            self.note(&outcome);
            outcome
        })
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
