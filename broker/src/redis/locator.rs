//! Locates the current master, and opens connections to it.

use std::{net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError,
    RedisResult, Value, aio::MultiplexedConnection,
};
use tokio::{
    net::{UdpSocket, lookup_host},
    time::Instant,
};

use super::{
    address::{ParsedAddress, RedisAddress},
    denials,
    errors::connection_error,
    sentinel::{Node, Sentinels},
};
use crate::BrokerError;

/// Finds the master and opens connections to it.
pub(super) struct Locator {
    address: Arc<RedisAddress>,
    route: Mutex<CurrentRoute>,
}

/// The route that the URL gives at present.
struct CurrentRoute {
    route: Arc<Route>,
    /// The URL, or the reason why it could not be read, at the last look.
    seen: Result<String, String>,
    /// When the URL last changed to that of another server.
    moved: Option<Instant>,
}

/// The way to the master.
pub(super) struct Route {
    server: ConnectionInfo,
    /// Sentinels that know the host of the master; `None` if `server` contains the host.
    sentinels: Option<Sentinels>,
}

impl Locator {
    /// Checks `address` without connecting.
    pub(super) fn new(address: RedisAddress) -> Result<Self, BrokerError> {
        let address = Arc::new(address);
        let url = address.current_url()?;
        let route = Arc::new(Route::new(&address, &url)?);
        denials::identify(&route.name(), route.user());
        let route = Mutex::new(CurrentRoute { route, seen: Ok(url), moved: None });
        Ok(Self { address, route })
    }

    /// Opens a connection to the master, in a single attempt.
    pub(super) async fn open(
        &self,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, BrokerError> {
        let route = self.route();
        let opened = self.open_by(&route, config).await;
        opened.map_err(|error| route.explain(error))
    }

    /// Locates the master, without connecting to it.
    pub(super) async fn client(&self, route: &Route) -> RedisResult<Client> {
        route.client(&self.address).await
    }

    async fn open_by(
        &self,
        route: &Route,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let client = self.client(route).await?;
        let found = Instant::now();
        let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
        match check(route, &mut connection).await {
            Ok(()) if self.has_moved_since(found) => Err(gone("the master moved")),
            checked => checked.map(|()| connection),
        }
    }

    /// Fails if a connection is broken or leads to a replica. A master that became a replica may
    /// keep its connections, but refuses jobs.
    pub(super) async fn check(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let route = self.route.lock().route.clone();
        check(&route, connection).await
    }

    /// Reads the URL again, and asks the sentinels, if any, whether the master has moved.
    pub(super) async fn refresh(&self) {
        if let Some(sentinels) = &self.route().sentinels {
            sentinels.refresh().await;
        }
    }

    /// Whether the master has moved since `opened`.
    pub(super) fn has_moved_since(&self, opened: Instant) -> bool {
        let current = self.route.lock();
        let by_sentinels = current.route.sentinels.as_ref().and_then(Sentinels::moved);
        by_sentinels.max(current.moved).is_some_and(|moved| moved > opened)
    }

    /// The hosts to connect to first: the sentinels, or the server.
    pub(super) fn first_hosts(&self) -> Vec<ConnectionInfo> {
        let route = self.route();
        route.sentinels.as_ref().map_or(vec![route.server.clone()], |known| known.hosts().to_vec())
    }

    /// Host and port of the server, or those of the sentinels.
    pub(super) fn name(&self) -> String {
        self.route().name()
    }

    /// The address of this machine on the network of Redis; `None` if unknown.
    pub(super) async fn local_ip(&self) -> Option<IpAddr> {
        let hosts = self.first_hosts();
        let (ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) =
            hosts.first()?.addr()
        else {
            return None;
        };
        let to = lookup_host((host.as_str(), *port)).await.ok()?.next()?;
        let any = if to.is_ipv6() { IpAddr::from([0_u16; 8]) } else { IpAddr::from([0_u8; 4]) };
        // Connecting a UDP socket sends nothing; it only chooses the local address.
        let socket = UdpSocket::bind((any, 0)).await.ok()?;
        socket.connect(to).await.ok()?;
        Some(socket.local_addr().ok()?.ip())
    }

    /// The route of the URL when it was last read.
    pub(super) fn known_route(&self) -> Arc<Route> {
        self.route.lock().route.clone()
    }

    /// The route of the current URL. A URL that cannot be read or parsed does not replace the last
    /// one, because a file may be read while another program writes it.
    pub(super) fn route(&self) -> Arc<Route> {
        let url = self.address.current_url().map_err(|error| error.to_string());
        let mut current = self.route.lock();
        if url != current.seen {
            match url.clone().map(|url| Route::new(&self.address, &url)) {
                Ok(Ok(route)) => {
                    if !route.leads_where(&current.route) {
                        current.moved = Some(Instant::now());
                    }
                    tracing::info!(address = route.name(), user = route.user(), "read a new URL");
                    denials::identify(&route.name(), route.user());
                    current.route = Arc::new(route);
                }
                Ok(Err(error)) => warn_of_url(&error.to_string()),
                Err(error) => warn_of_url(&error),
            }
            current.seen = url;
        }
        current.route.clone()
    }
}

/// Opens one connection to the master for another user than that of the program.
pub(super) async fn open_once(
    address: &RedisAddress,
    config: &AsyncConnectionConfig,
) -> Result<MultiplexedConnection, BrokerError> {
    let address = Arc::new(address.clone());
    let route = Route::new(&address, &address.current_url()?)?;
    let open = async {
        let client = route.client(&address).await?;
        let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
        check(&route, &mut connection).await.map(|()| connection)
    };
    open.await.map_err(|error| route.explain(error))
}

fn warn_of_url(error: &str) {
    tracing::warn!(error, "failed to read the URL of Redis, keeping the previous one");
}

impl Route {
    fn new(address: &Arc<RedisAddress>, url: &str) -> Result<Self, BrokerError> {
        let ParsedAddress { server, sentinels } = address.parse(url)?;
        let sentinels =
            sentinels.map(|(hosts, name)| Sentinels::new(Arc::clone(address), hosts, name));
        Ok(Self { server, sentinels })
    }

    async fn client(&self, address: &RedisAddress) -> RedisResult<Client> {
        let server = match &self.sentinels {
            None => self.server.clone(),
            Some(sentinels) => at(&self.server, sentinels.master().await?),
        };
        address.client(server)
    }

    /// Converts the error of an attempt to connect.
    pub(super) fn explain(&self, error: RedisError) -> BrokerError {
        connection_error(error, &self.name(), self.user())
    }

    fn user(&self) -> &str {
        self.server.redis_settings().username().unwrap_or("default")
    }

    fn name(&self) -> String {
        let hosts: Vec<_> = match &self.sentinels {
            None => vec![self.server.addr().to_string()],
            Some(sentinels) => {
                sentinels.hosts().iter().map(|host| host.addr().to_string()).collect()
            }
        };
        hosts.join(",")
    }

    /// Whether both routes lead to the same data, with whatever user and password.
    fn leads_where(&self, other: &Self) -> bool {
        let master = |route: &Self| route.sentinels.as_ref().map(|known| known.name().to_owned());
        let database = |route: &Self| route.server.redis_settings().db();
        self.name() == other.name()
            && master(self) == master(other)
            && database(self) == database(other)
    }
}

async fn check(route: &Route, connection: &mut MultiplexedConnection) -> RedisResult<()> {
    match redis::cmd("ROLE").query_async::<Vec<Value>>(connection).await {
        Ok(role) => match role.first() {
            Some(Value::BulkString(role)) if role.as_slice() == b"slave" => {
                if let Some(sentinels) = &route.sentinels {
                    sentinels.forget_last().await;
                }
                Err(gone("the server is a replica, which takes no requests"))
            }
            _ => Ok(()),
        },
        // Without the permission for `ROLE`, an error still shows that the server answers. Without
        // a valid password, the connection is useless.
        Err(error) if denials::is_of_password(&error) => Err(error),
        Err(error) if matches!(error.kind(), ErrorKind::Server(_)) => Ok(()),
        Err(error) => Err(error),
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
