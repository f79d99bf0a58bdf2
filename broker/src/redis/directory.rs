//! Servers that know which server is in charge: sentinels, which monitor a master and its replicas,
//! or the nodes of a cluster. The guidelines for clients of sentinels are
//! <https://redis.io/docs/latest/develop/reference/sentinel-clients/>.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult,
    aio::MultiplexedConnection,
};
use tokio::{task::JoinSet, time::Instant};

use super::{
    address::{InCharge, RedisAddress},
    connect::connection_config,
    slots::{self, Node},
};

/// How long an answer of a sentinel is fresh. Nothing else tells that the master has moved.
const FRESH: Duration = Duration::from_millis(500);
/// How long an answer of a node of a cluster is fresh. A node that has lost a partition says so.
const FRESH_IN_CLUSTER: Duration = Duration::from_secs(5);
/// How long an answer is fresh when there is a reason to ask again.
const FRESH_IN_DOUBT: Duration = Duration::from_millis(20);

/// Servers that all know who is in charge.
pub(super) struct Directory {
    address: Arc<RedisAddress>,
    hosts: Vec<ConnectionInfo>,
    in_charge: InCharge,
    /// The server that answered last, and the time of its answer.
    last: tokio::sync::Mutex<Option<(Asked, Instant)>>,
    master: Mutex<KnownMaster>,
}

/// A connection to a server of the directory, and its host.
type Asked = (MultiplexedConnection, String);

#[derive(Default)]
struct KnownMaster {
    node: Option<Node>,
    /// When a new node was last named.
    moved: Option<Instant>,
}

impl Directory {
    pub(super) fn new(
        address: Arc<RedisAddress>,
        hosts: Vec<ConnectionInfo>,
        in_charge: InCharge,
    ) -> Self {
        let (last, master) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { address, hosts, in_charge, last, master }
    }

    pub(super) fn hosts(&self) -> &[ConnectionInfo] {
        &self.hosts
    }

    /// What the servers know.
    pub(super) fn in_charge(&self) -> &InCharge {
        &self.in_charge
    }

    /// Asks the server that answered last for the master, or all servers if that fails.
    pub(super) async fn master(&self) -> RedisResult<Node> {
        let mut last = self.last.lock().await;
        self.ask(&mut last).await
    }

    /// Asks again, unless the last answer is fresh. Keeps the known master if no server answers.
    pub(super) async fn refresh(&self, in_doubt: bool) {
        let fresh = match self.in_charge {
            _ if in_doubt => FRESH_IN_DOUBT,
            InCharge::Master(_) => FRESH,
            InCharge::Owner { .. } => FRESH_IN_CLUSTER,
        };
        let mut last = self.last.lock().await;
        if last.as_ref().is_some_and(|(_, answered)| answered.elapsed() < fresh) {
            return;
        }
        if let Err(error) = self.ask(&mut last).await {
            tracing::debug!(%error, "no server named the master");
        }
    }

    /// Makes the next query go to all servers, because the last answer was wrong.
    pub(super) async fn forget_last(&self) {
        *self.last.lock().await = None;
    }

    /// When the master was last found at a new node.
    pub(super) fn moved(&self) -> Option<Instant> {
        self.master.lock().moved
    }

    async fn ask(&self, last: &mut Option<(Asked, Instant)>) -> RedisResult<Node> {
        // Taken out, so that a server that fails or does not answer is not asked again.
        let again = match last.take() {
            Some((asked, _)) => ask(asked, &self.in_charge).await.ok(),
            None => None,
        };
        let (asked, node) = match again {
            Some(answer) => answer,
            None => self.ask_all().await?,
        };
        *last = Some((asked, Instant::now()));
        let mut known = self.master.lock();
        if known.node.as_ref() != Some(&node) {
            if known.node.is_some() {
                known.moved = Some(Instant::now());
                let master = self.in_charge.to_string();
                tracing::warn!(master, host = node.0, port = node.1, "master moved");
            }
            known.node = Some(node.clone());
        }
        Ok(node)
    }

    /// Asks all servers concurrently. The first answer counts.
    async fn ask_all(&self) -> RedisResult<(Asked, Node)> {
        let mut asked = JoinSet::new();
        for host in &self.hosts {
            let (client, in_charge) = (self.address.client(host.clone())?, self.in_charge.clone());
            asked.spawn(async move { ask(connect(&client).await?, &in_charge).await });
        }
        let mut why: Option<RedisError> = None;
        while let Some(answer) = asked.join_next().await {
            match answer.map_err(|error| RedisError::from(std::io::Error::other(error))).flatten() {
                Ok(answer) => return Ok(answer),
                // Prefer the error of a server that answered over an I/O error.
                Err(error) if why.as_ref().is_none_or(RedisError::is_io_error) => why = Some(error),
                Err(_) => {}
            }
        }
        Err(why.unwrap_or_else(|| (ErrorKind::EmptySentinelList, "there are no servers").into()))
    }
}

async fn connect(server: &Client) -> RedisResult<Asked> {
    let host = match server.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.clone(),
        _ => String::new(),
    };
    let config = connection_config();
    Ok((server.get_multiplexed_async_connection_with_config(&config).await?, host))
}

async fn ask((mut server, host): Asked, in_charge: &InCharge) -> RedisResult<(Asked, Node)> {
    let node = match in_charge {
        InCharge::Master(name) => ask_sentinel(&mut server, name).await?,
        InCharge::Owner { slot, .. } => slots::ask(&mut server, &host, *slot).await?,
    };
    Ok(((server, host), node))
}

async fn ask_sentinel(sentinel: &mut MultiplexedConnection, name: &str) -> RedisResult<Node> {
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let node: Option<Node> = ask.query_async(sentinel).await?;
    node.ok_or_else(|| {
        let kind = ErrorKind::MasterNameNotFoundBySentinel;
        (kind, "the sentinels know no such master", name.to_owned()).into()
    })
}
