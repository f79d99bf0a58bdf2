//! Locates the current master, and opens connections to it.

use std::sync::Arc;

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError,
    RedisResult, Value, aio::MultiplexedConnection,
};
use tokio::time::Instant;

use super::{
    address::{ParsedAddress, RedisAddress},
    sentinel::{Node, Sentinels},
};
use crate::BrokerError;

/// Finds the master and opens connections to it.
pub(super) struct Locator {
    address: Arc<RedisAddress>,
    server: ConnectionInfo,
    /// Sentinels that know the host of the master; `None` if `server` contains the host.
    sentinels: Option<Sentinels>,
}

impl Locator {
    /// Checks `address` without connecting.
    pub(super) fn new(address: RedisAddress) -> Result<Self, BrokerError> {
        let ParsedAddress { server, sentinels } = address.parse()?;
        let address = Arc::new(address);
        let sentinels =
            sentinels.map(|(hosts, name)| Sentinels::new(Arc::clone(&address), hosts, name));
        Ok(Self { address, server, sentinels })
    }

    /// Opens a connection to the master, in a single attempt.
    pub(super) async fn open(
        &self,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let client = self.client().await?;
        let found = Instant::now();
        let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
        match self.check(&mut connection).await {
            Ok(()) if self.has_moved_since(found) => Err(gone("the master moved")),
            checked => checked.map(|()| connection),
        }
    }

    /// Creates a client for the master.
    pub(super) async fn client(&self) -> RedisResult<Client> {
        let server = match &self.sentinels {
            None => self.server.clone(),
            Some(sentinels) => at(&self.server, sentinels.master().await?),
        };
        self.address.client(server)
    }

    /// Fails if a connection is broken or leads to a replica. A master that became a replica may
    /// keep its connections, but refuses jobs.
    pub(super) async fn check(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        match redis::cmd("ROLE").query_async::<Vec<Value>>(connection).await {
            Ok(role) => match role.first() {
                Some(Value::BulkString(role)) if role.as_slice() == b"slave" => {
                    if let Some(sentinels) = &self.sentinels {
                        sentinels.forget_last().await;
                    }
                    Err(gone("the server is a replica, which takes no requests"))
                }
                _ => Ok(()),
            },
            // Without the permission for `ROLE`, an error still shows that the server answers.
            Err(error) if matches!(error.kind(), ErrorKind::Server(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks the sentinels, if any, whether the master has moved.
    pub(super) async fn refresh(&self) {
        if let Some(sentinels) = &self.sentinels {
            sentinels.refresh().await;
        }
    }

    /// Whether the master has moved since `opened`.
    pub(super) fn has_moved_since(&self, opened: Instant) -> bool {
        let moved = self.sentinels.as_ref().and_then(Sentinels::moved);
        moved.is_some_and(|moved| moved > opened)
    }

    /// The hosts to connect to first: the sentinels, or the server.
    pub(super) fn first_hosts(&self) -> &[ConnectionInfo] {
        self.sentinels.as_ref().map_or(std::slice::from_ref(&self.server), Sentinels::hosts)
    }
}

/// Copies the server's settings for another host and port.
fn at(server: &ConnectionInfo, (host, port): Node) -> ConnectionInfo {
    let address = match server.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    server.clone().set_addr(address)
}

fn gone(why: &'static str) -> RedisError {
    (ErrorKind::Io, why).into()
}
