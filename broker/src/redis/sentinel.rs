//! Redis Sentinel: servers that watch a master and its replicas, agree on who is the master, and tell
//! whoever asks. The guide for clients is <https://redis.io/docs/latest/develop/reference/sentinel-clients/>.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection,
};
use tokio::{task::JoinSet, time::Instant};

use super::{address::RedisAddress, connect::connection_config};

/// For so long an answer is not asked for again just to look.
const FRESH: Duration = Duration::from_millis(500);

/// Host and port.
pub(super) type Node = (String, u16);

/// The sentinels of one master.
pub(super) struct Sentinels {
    address: Arc<RedisAddress>,
    hosts: Vec<ConnectionInfo>,
    /// What they call the master.
    name: String,
    /// The one that answered last, and when it did.
    spokesman: tokio::sync::Mutex<Option<(MultiplexedConnection, Instant)>>,
    master: Mutex<Master>,
}

#[derive(Default)]
struct Master {
    node: Option<Node>,
    /// When it was last heard that it is another one.
    moved: Option<Instant>,
}

impl Sentinels {
    pub(super) fn new(
        address: Arc<RedisAddress>,
        hosts: Vec<ConnectionInfo>,
        name: String,
    ) -> Self {
        let (spokesman, master) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { address, hosts, name, spokesman, master }
    }

    pub(super) fn hosts(&self) -> &[ConnectionInfo] {
        &self.hosts
    }

    /// Asks where the master is: whoever answered last, or else all at once.
    pub(super) async fn master(&self) -> RedisResult<Node> {
        let mut spokesman = self.spokesman.lock().await;
        self.ask(&mut spokesman).await
    }

    /// Asks again, unless that was done just now. When no sentinel answers, the master stays the one
    /// that is known.
    pub(super) async fn look(&self) {
        let mut spokesman = self.spokesman.lock().await;
        if spokesman.as_ref().is_some_and(|(_, answered)| answered.elapsed() < FRESH) {
            return;
        }
        if let Err(error) = self.ask(&mut spokesman).await {
            tracing::debug!(%error, "no sentinel tells who the master is");
        }
    }

    /// What was answered last was wrong: next, all are asked.
    pub(super) async fn doubt(&self) {
        *self.spokesman.lock().await = None;
    }

    /// When it was last heard that another one is the master.
    pub(super) fn moved(&self) -> Option<Instant> {
        self.known().moved
    }

    async fn ask(
        &self,
        spokesman: &mut Option<(MultiplexedConnection, Instant)>,
    ) -> RedisResult<Node> {
        // Taken out: one that fails, or is waited for in vain, is not asked again.
        let again = match spokesman.take() {
            Some((connection, _)) => ask(connection, &self.name).await.ok(),
            None => None,
        };
        let (connection, node) = match again {
            Some(answer) => answer,
            None => self.ask_all().await?,
        };
        *spokesman = Some((connection, Instant::now()));
        let mut known = self.known();
        if known.node.as_ref() != Some(&node) {
            if known.node.is_some() {
                known.moved = Some(Instant::now());
                tracing::warn!(master = self.name, host = node.0, port = node.1, "Redis moved");
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
                // Who does not know the name says more than who says nothing.
                Err(error) if why.as_ref().is_none_or(RedisError::is_io_error) => why = Some(error),
                Err(_) => {}
            }
        }
        Err(why.unwrap_or_else(|| (ErrorKind::EmptySentinelList, "there are no sentinels").into()))
    }

    /// A panic elsewhere leaves it whole: every change is a single assignment.
    fn known(&self) -> MutexGuard<'_, Master> {
        self.master.lock().unwrap_or_else(PoisonError::into_inner)
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
