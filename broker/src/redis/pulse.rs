//! A gateway's pulse: it says that the gateway lives, and feels whether Redis still answers and
//! still has its data.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{Pipeline, aio::ConnectionLike};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Shared,
    connect::{broker_error, info},
    keys,
};
use crate::{BrokerError, GatewayId, roles::LIVENESS};

/// How often Redis is asked.
const EVERY: Duration = Duration::from_millis(500);

/// The same while it does not answer.
const HURRIED: Duration = Duration::from_millis(100);

/// How long Redis may owe an answer: longer than the second for which it may be frozen without
/// anybody's notice, and in which whoever already waits goes on waiting.
const HELD: Duration = Duration::from_millis(1500);

/// The pulse of one gateway boot, beating in a task of its own until it is dropped.
pub(super) struct Pulse {
    felt: Arc<Felt>,
    task: JoinHandle<()>,
}

struct Felt {
    shared: Arc<Shared>,
    /// The key that says that the gateway lives.
    gateway: String,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Whose data it is: the epoch, and which server holds it.
    identity: Option<Identity>,
    /// Since when Redis has owed an answer.
    owed_since: Option<Instant>,
}

#[derive(Clone, PartialEq, Eq)]
struct Identity {
    epoch: String,
    server: Option<(String, String)>,
}

impl Pulse {
    /// Feels it for the first time, and then on and on.
    pub(super) async fn start(
        shared: Arc<Shared>,
        gateway: GatewayId,
    ) -> Result<Self, BrokerError> {
        let gateway = keys::gateway(gateway);
        let felt = Felt { shared, gateway, state: Mutex::default(), changed: Notify::new() };
        match felt.beat().await {
            // It cannot say yet that it lives, but nor can it submit anything.
            Err(BrokerError::Full) => {}
            felt => felt?,
        }
        let felt = Arc::new(felt);
        let task = tokio::spawn(Arc::clone(&felt).keep_beating());
        Ok(Self { felt, task })
    }

    /// Whether Redis has not owed an answer for longer than it may.
    pub(super) fn is_steady(&self) -> bool {
        let owed_since = self.felt.state().owed_since;
        owed_since.is_none_or(|since| since.elapsed() < HELD)
    }

    /// Waits until Redis lost its data, or is another one. May be cancelled.
    pub(super) async fn changed(&self) {
        self.felt.changed.notified().await;
    }

    /// Takes note of whatever has changed until now, so that it is not told again.
    pub(super) async fn catch_up(&self) {
        if let Err(error) = self.felt.beat().await {
            tracing::debug!(%error, "Redis went away again");
        }
        // Uses up what was to be told.
        pin!(self.felt.changed.notified()).enable();
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Felt {
    async fn keep_beating(self: Arc<Self>) {
        let mut pause = EVERY;
        loop {
            sleep(pause).await;
            self.state().owed_since.get_or_insert_with(Instant::now);
            pause = match self.beat().await {
                Ok(()) => EVERY,
                Err(error) => {
                    tracing::debug!(%error, "no sign of life could be given");
                    HURRIED
                }
            };
        }
    }

    /// One beat.
    async fn beat(&self) -> Result<(), BrokerError> {
        let mut connection = self.shared.pool.get().await?;
        // What a full Redis does as well: look, and prolong.
        let (epoch, alive): (Option<String>, bool) = Pipeline::new()
            .get(keys::EPOCH)
            .cmd("PEXPIRE")
            .arg(&self.gateway)
            .arg(LIVENESS.as_secs() * 1000)
            .query_async(&mut *connection)
            .await
            .map_err(broker_error)?;
        self.state().owed_since = None;
        let epoch = match epoch {
            Some(epoch) if alive => epoch,
            _ => self.begin(&mut *connection).await?,
        };
        let server = info(&mut *connection, &["server", "replication"]).await?;
        let field = |name| Some(server.as_ref()?.field(name)?.to_owned());
        let server = field("run_id").zip(field("master_replid"));
        let identity = Identity { epoch, server };
        if self.state().identity.replace(identity.clone()).is_some_and(|before| before != identity)
        {
            tracing::warn!("Redis lost its data, or is another one now");
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Says that the gateway lives, and where there is no epoch begins one; which there is then.
    async fn begin(&self, connection: &mut impl ConnectionLike) -> Result<String, BrokerError> {
        let (epoch,) = Pipeline::new()
            .atomic()
            .pset_ex(&self.gateway, 1, LIVENESS.as_secs() * 1000)
            .ignore()
            .set_nx(keys::EPOCH, format!("{:032x}", rand::random::<u128>()))
            .ignore()
            .get(keys::EPOCH)
            .query_async(connection)
            .await
            .map_err(broker_error)?;
        Ok(epoch)
    }

    /// A panic elsewhere leaves it whole: every change is a single assignment.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
