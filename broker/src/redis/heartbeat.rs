//! The heartbeat of a gateway: renews its liveness key, and detects when Redis stops answering or
//! loses its data.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use redis::{Pipeline, Value, aio::ConnectionLike};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{connect::Info, connections::Connections, errors::broker_error, values::parse};
use crate::{BrokerError, GatewayId, roles::LIVENESS};

/// Interval between beats.
const EVERY: Duration = Duration::from_millis(500);

/// Interval between beats while Redis does not answer.
const EVERY_WHILE_AWAY: Duration = Duration::from_millis(100);

/// How often the server is asked who it is. Another server also means another connection, and with it a
/// broken subscription, which is noticed at once.
const ASKED: Duration = Duration::from_millis(900);

/// How long an answer may take. Longer than 1 s, so that a short Redis stall does not make the
/// gateway refuse requests.
const STALL: Duration = Duration::from_millis(1500);

/// The heartbeat of one gateway boot: a task that beats until the heartbeat is dropped.
pub(super) struct Heartbeat {
    beats: Arc<Beats>,
    task: JoinHandle<()>,
}

struct Beats {
    connections: Arc<Connections>,
    /// The liveness key of the gateway.
    gateway: String,
    /// The value of that key: the address of the gateway's admin port, or `1` while unknown.
    value: Mutex<String>,
    state: Mutex<HeartbeatState>,
    changed: Notify,
}

#[derive(Default)]
struct HeartbeatState {
    /// The data and the server at the last successful beat.
    data: Option<DataIdentity>,
    /// Start of the first beat that Redis has not answered.
    unanswered_since: Option<Instant>,
    /// When the server was last asked who it is; `None` if the next beat must ask.
    asked: Option<Instant>,
}

#[derive(Clone, PartialEq, Eq)]
struct DataIdentity {
    epoch: String,
    server: Option<(String, String)>,
}

impl Heartbeat {
    /// Beats once, then starts the task.
    pub(super) async fn start(
        connections: Arc<Connections>,
        gateway: GatewayId,
    ) -> Result<Self, BrokerError> {
        let gateway = connections.keys.gateway(gateway);
        let beats = Beats {
            connections,
            gateway,
            value: Mutex::new("1".to_owned()),
            state: Mutex::default(),
            changed: Notify::new(),
        };
        match beats.beat().await {
            // A full Redis refuses the liveness key, but it also refuses jobs.
            Err(BrokerError::Full) => {}
            Err(BrokerError::Unreachable(_)) => {
                beats.state.lock().unanswered_since = Some(Instant::now());
            }
            beat => beat?,
        }
        let beats = Arc::new(beats);
        let task = beats.connections.tasks.spawn("heartbeat", Arc::clone(&beats).keep_beating());
        Ok(Self { beats, task })
    }

    /// Whether Redis answers within [`STALL`].
    pub(super) fn is_steady(&self) -> bool {
        let unanswered_since = self.beats.state.lock().unanswered_since;
        unanswered_since.is_none_or(|since| since.elapsed() < STALL)
    }

    /// Publishes the address of the gateway's admin port as the value of the liveness key.
    pub(super) async fn introduce(&self, admin: SocketAddr) -> Result<(), BrokerError> {
        *self.beats.value.lock() = admin.to_string();
        let mut connection = self.beats.connections.pool.get().await?;
        self.beats.begin(&mut *connection).await.map(drop)
    }

    /// Waits until Redis loses its data, or another server takes its place. Cancel safe.
    pub(super) async fn changed(&self) {
        self.beats.changed.notified().await;
    }

    /// Beats once, and discards the notification of earlier changes, which the caller already
    /// handles.
    pub(super) async fn catch_up(&self) {
        self.beats.state.lock().asked = None;
        if let Err(error) = self.beats.beat().await {
            tracing::debug!(%error, "heartbeat failed");
        }
        // Consumes the notification.
        pin!(self.beats.changed.notified()).enable();
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Beats {
    async fn keep_beating(self: Arc<Self>) {
        let mut pause = EVERY;
        loop {
            sleep(pause).await;
            self.state.lock().unanswered_since.get_or_insert_with(Instant::now);
            pause = match self.beat().await {
                Ok(()) => EVERY,
                Err(error) => {
                    tracing::debug!(%error, "heartbeat failed");
                    EVERY_WHILE_AWAY
                }
            };
        }
    }

    /// Reads the epoch, renews the liveness key, and compares epoch and server with the last beat.
    async fn beat(&self) -> Result<(), BrokerError> {
        // An unanswered beat makes the next one ask again.
        let asked = self.state.lock().asked.take();
        let asked = asked.filter(|asked| asked.elapsed() < ASKED);
        let mut connection = self.connections.pool.get().await?;
        // A full Redis also executes these commands.
        let mut commands = Pipeline::new();
        commands.get(self.connections.keys.epoch()).cmd("PEXPIRE").arg(&self.gateway);
        commands.arg(LIVENESS.as_secs() * 1000);
        if asked.is_none() {
            commands.cmd("INFO").arg(&["server", "replication"]);
        }
        let answers: Vec<Value> =
            commands.ignore_errors().query_async(&mut *connection).await.map_err(broker_error)?;
        let mut answers = answers.into_iter();
        let epoch: Option<String> = parse(answers.next()).map_err(broker_error)?;
        let alive: bool = parse(answers.next()).map_err(broker_error)?;
        let server = match asked {
            Some(_) => self.state.lock().data.as_ref().and_then(|data| data.server.clone()),
            None => identity(Info::of(parse(answers.next()))?.as_ref()),
        };
        self.state.lock().unanswered_since = None;
        let epoch = match epoch {
            Some(epoch) if alive => epoch,
            _ => self.begin(&mut *connection).await?,
        };
        let data = DataIdentity { epoch, server };
        let mut state = self.state.lock();
        state.asked = asked.or_else(|| Some(Instant::now()));
        let before = state.data.replace(data.clone());
        drop(state);
        if before.is_some_and(|before| before != data) {
            tracing::warn!("Redis lost its data, or another server took its place");
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Sets the liveness key, and the epoch if it is missing. Returns the epoch.
    async fn begin(&self, connection: &mut impl ConnectionLike) -> Result<String, BrokerError> {
        let value = self.value.lock().clone();
        let epoch = self.connections.keys.epoch();
        let (epoch,) = Pipeline::new()
            .atomic()
            .pset_ex(&self.gateway, value, LIVENESS.as_secs() * 1000)
            .ignore()
            .set_nx(&epoch, format!("{:032x}", rand::random::<u128>()))
            .ignore()
            .get(&epoch)
            .query_async(connection)
            .await
            .map_err(broker_error)?;
        Ok(epoch)
    }
}

/// The process and the data of the server that answers; `None` if the user may not ask.
fn identity(info: Option<&Info>) -> Option<(String, String)> {
    let field = |name| Some(info?.field(name)?.to_owned());
    field("run_id").zip(field("master_replid"))
}
