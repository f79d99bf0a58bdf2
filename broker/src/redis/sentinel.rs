//! Redis Sentinel: servers that monitor a master and its replicas, and agree on the current master.
//! The guidelines for clients are
//! <https://redis.io/docs/latest/develop/reference/sentinel-clients/>.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use redis::{
    Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection,
};
use tokio::{task::JoinSet, time::Instant};

use super::{address::RedisAddress, connect::connection_config};

/// How long [`Sentinels::refresh`] considers an answer fresh.
const FRESH: Duration = Duration::from_millis(500);

/// Host and port of a server.
pub(super) type Node = (String, u16);

/// The sentinels of one master.
pub(super) struct Sentinels {
    address: Arc<RedisAddress>,
    hosts: Vec<ConnectionInfo>,
    /// The name of the master in the configuration of the sentinels.
    name: String,
    /// The sentinel that answered last, and the time of its answer.
    last: tokio::sync::Mutex<Option<(MultiplexedConnection, Instant)>>,
    master: Mutex<KnownMaster>,
}

#[derive(Default)]
struct KnownMaster {
    node: Option<Node>,
    /// When a sentinel last named a new node.
    moved: Option<Instant>,
}

impl Sentinels {
    pub(super) fn new(
        address: Arc<RedisAddress>,
        hosts: Vec<ConnectionInfo>,
        name: String,
    ) -> Self {
        let (last, master) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { address, hosts, name, last, master }
    }

    pub(super) fn hosts(&self) -> &[ConnectionInfo] {
        &self.hosts
    }

    /// The sentinels' name for the master.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Asks the sentinel that answered last for the master, or all sentinels if that fails.
    pub(super) async fn master(&self) -> RedisResult<Node> {
        let mut last = self.last.lock().await;
        self.ask(&mut last).await
    }

    /// Asks again, unless the last answer is fresh. Keeps the known master if no sentinel answers.
    pub(super) async fn refresh(&self) {
        let mut last = self.last.lock().await;
        if last.as_ref().is_some_and(|(_, answered)| answered.elapsed() < FRESH) {
            return;
        }
        if let Err(error) = self.ask(&mut last).await {
            tracing::debug!(%error, "no sentinel named the master");
        }
    }

    /// Makes the next query go to all sentinels, because the last answer was wrong.
    pub(super) async fn forget_last(&self) {
        *self.last.lock().await = None;
    }

    /// When the master was last found at a new node.
    pub(super) fn moved(&self) -> Option<Instant> {
        self.master.lock().moved
    }

    async fn ask(&self, last: &mut Option<(MultiplexedConnection, Instant)>) -> RedisResult<Node> {
        // Taken out, so that a sentinel that fails or does not answer is not asked again.
        let again = match last.take() {
            Some((connection, _)) => ask(connection, &self.name).await.ok(),
            None => None,
        };
        let (connection, node) = match again {
            Some(answer) => answer,
            None => self.ask_all().await?,
        };
        *last = Some((connection, Instant::now()));
        let mut known = self.master.lock();
        if known.node.as_ref() != Some(&node) {
            if known.node.is_some() {
                known.moved = Some(Instant::now());
                tracing::warn!(master = self.name, host = node.0, port = node.1, "master moved");
            }
            known.node = Some(node.clone());
        }
        Ok(node)
    }

    /// Asks all sentinels concurrently. The first answer counts.
    async fn ask_all(&self) -> RedisResult<(MultiplexedConnection, Node)> {
        let mut asked = JoinSet::new();
        for host in &self.hosts {
            let (client, name) = (self.address.client(host.clone())?, self.name.clone());
            asked.spawn(async move { ask(connect(&client).await?, &name).await });
        }
        let mut why: Option<RedisError> = None;
        while let Some(answer) = asked.join_next().await {
            match answer.map_err(|error| RedisError::from(std::io::Error::other(error))).flatten() {
                Ok(answer) => return Ok(answer),
                // Prefer the error of a sentinel that answered over an I/O error.
                Err(error) if why.as_ref().is_none_or(RedisError::is_io_error) => why = Some(error),
                Err(_) => {}
            }
        }
        Err(why.unwrap_or_else(|| (ErrorKind::EmptySentinelList, "there are no sentinels").into()))
    }
}

async fn connect(sentinel: &Client) -> RedisResult<MultiplexedConnection> {
    sentinel.get_multiplexed_async_connection_with_config(&connection_config()).await
}

async fn ask(
    mut sentinel: MultiplexedConnection,
    name: &str,
) -> RedisResult<(MultiplexedConnection, Node)> {
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    match ask.query_async(&mut sentinel).await? {
        Some(node) => Ok((sentinel, node)),
        None => Err((
            ErrorKind::MasterNameNotFoundBySentinel,
            "the sentinels know no such master",
            name.to_owned(),
        )
            .into()),
    }
}
