//! Locates the current master, and opens connections to it.

use std::{net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, RedisError,
    RedisResult, Value, aio::MultiplexedConnection,
};
use tokio::{
    net::{UdpSocket, lookup_host},
    sync::watch,
    time::Instant,
};

use super::{
    address::{InCharge, ParsedAddress, RedisAddress},
    channels::{Channels, KnownChannels},
    codes::server_code,
    denials,
    directory::Directory,
    errors::{connection_error, is_elsewhere},
    keys::Keys,
    slots::Node,
};
use crate::BrokerError;

/// Finds the master and opens connections to it.
pub(super) struct Locator {
    address: Arc<RedisAddress>,
    route: Mutex<CurrentRoute>,
    keys: Keys,
    channels: KnownChannels,
    /// Changes whenever an answer shows that another node of the cluster may have the partition.
    suspicion: watch::Sender<()>,
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
    /// Servers that know the host of the master; `None` if `server` contains the host.
    directory: Option<Directory>,
}

impl Locator {
    /// Checks `address` without connecting.
    pub(super) fn new(address: RedisAddress) -> Result<Self, BrokerError> {
        let address = Arc::new(address);
        let url = address.current_url()?;
        let route = Arc::new(Route::new(&address, &url)?);
        denials::identify(&route.name(), route.user());
        let partition = route.partition().map(|(partition, _)| partition);
        let (keys, channels) = (Keys::new(partition), KnownChannels::new(partition.is_some()));
        let route = Mutex::new(CurrentRoute { route, seen: Ok(url), moved: None });
        Ok(Self { address, route, keys, channels, suspicion: watch::Sender::new(()) })
    }

    /// The names of keys and channels.
    pub(super) fn keys(&self) -> Keys {
        self.keys
    }

    /// How messages reach subscribers.
    pub(super) fn channels(&self) -> Channels {
        self.channels.get()
    }

    /// Sets how messages reach subscribers.
    pub(super) fn set_channels(&self, channels: Channels) {
        self.channels.set(channels);
    }

    /// The number of partitions, if Redis is a cluster.
    pub(super) fn partitions(&self) -> Option<u16> {
        self.known_route().partition().map(|(_, partitions)| partitions)
    }

    /// Makes all connections check at once whether their server still has the partition.
    pub(super) fn suspect(&self) {
        self.suspicion.send_replace(());
    }

    /// Whether Redis is a cluster.
    pub(super) fn is_of_cluster(&self) -> bool {
        self.known_route().partition().is_some()
    }

    /// Tells of each [`suspect`](Self::suspect).
    pub(super) fn suspicions(&self) -> watch::Receiver<()> {
        self.suspicion.subscribe()
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
        match check(route, self.keys, &mut connection).await {
            Ok(()) if self.has_moved_since(found) => Err(gone("the master moved")),
            checked => checked.map(|()| connection),
        }
    }

    /// Fails if a connection is broken, leads to a replica, or leads to a node that does not have the
    /// whole partition. A master that became a replica may keep its connections, but refuses jobs.
    pub(super) async fn check(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let route = self.route.lock().route.clone();
        check(&route, self.keys, connection).await
    }

    /// Reads the URL again, and asks the directory, if any, whether the master has moved. `in_doubt` if
    /// there is a reason to believe so.
    pub(super) async fn refresh(&self, in_doubt: bool) {
        if let Some(directory) = &self.route().directory {
            directory.refresh(in_doubt).await;
        }
    }

    /// Whether the master has moved since `opened`.
    pub(super) fn has_moved_since(&self, opened: Instant) -> bool {
        let current = self.route.lock();
        let by_directory = current.route.directory.as_ref().and_then(Directory::moved);
        by_directory.max(current.moved).is_some_and(|moved| moved > opened)
    }

    /// The hosts to connect to first: those of the directory, or the server.
    pub(super) fn first_hosts(&self) -> Vec<ConnectionInfo> {
        let route = self.route();
        route.directory.as_ref().map_or(vec![route.server.clone()], |known| known.hosts().to_vec())
    }

    /// Host and port of the server, or those of the directory, with the partition of a cluster.
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
                Ok(Ok(route)) if route.partition() != current.route.partition() => {
                    warn_of_url("the number of partitions changes only when the program restarts");
                }
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
        let partition = route.partition().map(|(partition, _)| partition);
        check(&route, Keys::new(partition), &mut connection).await.map(|()| connection)
    };
    open.await.map_err(|error| route.explain(error))
}

fn warn_of_url(error: &str) {
    tracing::warn!(error, "failed to read the URL of Redis, keeping the previous one");
}

impl Route {
    fn new(address: &Arc<RedisAddress>, url: &str) -> Result<Self, BrokerError> {
        let ParsedAddress { server, directory } = address.parse(url)?;
        let directory = directory
            .map(|(hosts, in_charge)| Directory::new(Arc::clone(address), hosts, in_charge));
        Ok(Self { server, directory })
    }

    /// The partition of a cluster, and the number of all.
    fn partition(&self) -> Option<(u16, u16)> {
        match self.directory.as_ref()?.in_charge() {
            InCharge::Owner { partition, partitions, .. } => Some((*partition, *partitions)),
            InCharge::Master(_) => None,
        }
    }

    async fn client(&self, address: &RedisAddress) -> RedisResult<Client> {
        let server = match &self.directory {
            None => self.server.clone(),
            Some(directory) => at(&self.server, directory.master().await?),
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
        let hosts: Vec<_> = match &self.directory {
            None => vec![self.server.addr().to_string()],
            Some(known) => known.hosts().iter().map(|host| host.addr().to_string()).collect(),
        };
        let hosts = hosts.join(",");
        match self.partition() {
            None => hosts,
            Some((partition, _)) => format!("{hosts} partition {partition}"),
        }
    }

    /// Whether both routes lead to the same data, with whatever user and password.
    fn leads_where(&self, other: &Self) -> bool {
        let master = |route: &Self| route.directory.as_ref().map(|known| known.in_charge().clone());
        let database = |route: &Self| route.server.redis_settings().db();
        self.name() == other.name()
            && master(self) == master(other)
            && database(self) == database(other)
    }
}

async fn check(
    route: &Route,
    keys: Keys,
    connection: &mut MultiplexedConnection,
) -> RedisResult<()> {
    let mut questions = Pipeline::new();
    questions.cmd("ROLE");
    if route.partition().is_some() {
        // A node that hands over a partition refuses to read two keys of which one is not there.
        questions.cmd("MGET").arg(keys.epoch()).arg(keys.absent());
    }
    let answers: Vec<Value> = questions.ignore_errors().query_async(connection).await?;
    let mut answers = answers.into_iter();
    let role = answers.next().unwrap_or(Value::Nil).extract_error();
    let outcome = match role {
        Ok(Value::Array(role)) if is_of_replica(&role) => {
            Err(gone("the server is a replica, which takes no requests"))
        }
        // Without the permission for `ROLE`, an error still shows that the server answers. Without
        // a valid password, the connection is useless.
        Err(error) if denials::is_of_password(&error) => Err(error),
        _ => match answers.next().map(Value::extract_error) {
            Some(Err(error)) if has_moved(&error) => Err(error),
            _ => Ok(()),
        },
    };
    if let Some(directory) = route.directory.as_ref().filter(|_| outcome.is_err()) {
        directory.forget_last().await;
    }
    outcome
}

fn is_of_replica(role: &[Value]) -> bool {
    matches!(role.first(), Some(Value::BulkString(role)) if role.as_slice() == b"slave")
}

/// Whether an error shows that another server has the keys.
fn has_moved(error: &RedisError) -> bool {
    server_code(error).is_some_and(|code| is_elsewhere(&code))
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
