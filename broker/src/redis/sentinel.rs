//! Redis Sentinel: servers that watch a master and its replicas, and agree which one is the master.
//! The guide for clients is <https://redis.io/docs/latest/develop/reference/sentinel-clients/>.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use redis::{
    Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection,
};
use tokio::{task::JoinSet, time::Instant};

use super::{address::RedisAddress, connect::connection_config};

/// How long an answer is good enough for [`Sentinels::refresh`].
const FRESH: Duration = Duration::from_millis(500);

/// Host and port.
pub(super) type Node = (String, u16);

/// The sentinels of one master.
pub(super) struct Sentinels {
    address: Arc<RedisAddress>,
    hosts: Vec<ConnectionInfo>,
    /// The name of the master.
    name: String,
    /// The sentinel that answered last, and when it did.
    last: tokio::sync::Mutex<Option<(MultiplexedConnection, Instant)>>,
    master: Mutex<KnownMaster>,
}

#[derive(Default)]
struct KnownMaster {
    node: Option<Node>,
    /// When a sentinel last named another node than before.
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

    /// Asks for the master: the sentinel that answered last, or else all at once.
    pub(super) async fn master(&self) -> RedisResult<Node> {
        let mut last = self.last.lock().await;
        self.ask(&mut last).await
    }

    /// Asks again, unless the last answer is fresh. When no sentinel answers, the known master
    /// stays.
    pub(super) async fn refresh(&self) {
        let mut last = self.last.lock().await;
        if last.as_ref().is_some_and(|(_, answered)| answered.elapsed() < FRESH) {
            return;
        }
        if let Err(error) = self.ask(&mut last).await {
            tracing::debug!(%error, "no sentinel named the master");
        }
    }

    /// The last answer was wrong: the next question goes to all sentinels.
    pub(super) async fn forget_last(&self) {
        *self.last.lock().await = None;
    }

    /// When the master was last found to have moved.
    pub(super) fn moved(&self) -> Option<Instant> {
        self.master.lock().moved
    }

    async fn ask(&self, last: &mut Option<(MultiplexedConnection, Instant)>) -> RedisResult<Node> {
        // Taken out: a sentinel that fails or does not answer is not asked again.
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

    /// The first answer counts.
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
                // A sentinel that does not know the name tells more than one that does not answer.
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
