//! Where Redis is now: the only place where connections to it are opened.

use std::sync::Arc;

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError,
    RedisResult, Value, aio::MultiplexedConnection,
};
use tokio::time::Instant;

use super::{
    address::{Parsed, RedisAddress},
    sentinel::{Node, Sentinels},
};
use crate::BrokerError;

/// Where Redis is.
pub(super) struct Place {
    address: Arc<RedisAddress>,
    server: ConnectionInfo,
    /// They know where it is; else it is where it is said to be.
    sentinels: Option<Sentinels>,
}

impl Place {
    /// Where `address` says, if it makes sense.
    pub(super) fn new(address: RedisAddress) -> Result<Self, BrokerError> {
        let Parsed { server, sentinels } = address.parse()?;
        let address = Arc::new(address);
        let sentinels =
            sentinels.map(|(hosts, name)| Sentinels::new(Arc::clone(&address), hosts, name));
        Ok(Self { address, server, sentinels })
    }

    /// Opens a connection to where it is now; tries once.
    pub(super) async fn open(
        &self,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let client = self.client().await?;
        let found = Instant::now();
        let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
        match self.check(&mut connection).await {
            Ok(()) if self.is_elsewhere_since(found) => Err(gone("Redis went elsewhere")),
            checked => checked.map(|()| connection),
        }
    }

    /// What opens connections to where it is now.
    pub(super) async fn client(&self) -> RedisResult<Client> {
        let server = match &self.sentinels {
            None => self.server.clone(),
            Some(sentinels) => at(&self.server, sentinels.master().await?),
        };
        self.address.client(server)
    }

    /// Whether a connection lives, and does not lead to a replica, which takes no jobs: a server that
    /// was demoted may keep its connections.
    pub(super) async fn check(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        match redis::cmd("ROLE").query_async::<Vec<Value>>(connection).await {
            Ok(role) => match role.first() {
                Some(Value::BulkString(role)) if role.as_slice() == b"slave" => {
                    if let Some(sentinels) = &self.sentinels {
                        sentinels.doubt().await;
                    }
                    Err(gone("Redis is a replica there, which takes no requests"))
                }
                _ => Ok(()),
            },
            // Whoever may not ask can still tell that it lives.
            Err(error) if matches!(error.kind(), ErrorKind::Server(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Finds out whether it is elsewhere now, if somebody knows.
    pub(super) async fn look(&self) {
        if let Some(sentinels) = &self.sentinels {
            sentinels.look().await;
        }
    }

    /// Whether a connection opened at this moment leads to where it is no longer.
    pub(super) fn is_elsewhere_since(&self, opened: Instant) -> bool {
        let moved = self.sentinels.as_ref().and_then(Sentinels::moved);
        moved.is_some_and(|moved| moved > opened)
    }

    /// The hosts that are asked first: sentinels, or the server itself.
    pub(super) fn doors(&self) -> &[ConnectionInfo] {
        self.sentinels.as_ref().map_or(std::slice::from_ref(&self.server), Sentinels::hosts)
    }
}

/// The same server in another place.
fn at(server: &ConnectionInfo, (host, port): Node) -> ConnectionInfo {
    let place = match server.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    server.clone().set_addr(place)
}

fn gone(why: &'static str) -> RedisError {
    (ErrorKind::Io, why).into()
}
