//! The address of Redis, as users write it.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, RedisError, RedisResult, TlsCertificates,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::slots::{MOST_PARTITIONS, slot_of_partition};
use crate::BrokerError;

/// The default port of sentinels.
const SENTINEL_PORT: u16 = 26379;
/// The default port of the nodes of a cluster.
const NODE_PORT: u16 = 6379;

/// The address of Redis, and the certificate files for its connections.
///
/// All files are read again for each connection, because passwords and certificates may be renewed
/// while the program runs.
#[derive(Clone, Default)]
pub struct RedisAddress {
    /// `redis://user:password@host:6379/0`, or `rediss://` for TLS. With sentinels
    /// `redis+sentinel://user:password@host1:26379,host2:26379/master/0`, or `rediss+sentinel://`.
    /// User and password are for Redis. Credentials for the sentinels follow as
    /// `?sentinel_username=user&sentinel_password=password`. For a cluster
    /// `redis+cluster://user:password@host1:6379,host2:6379/?partitions=4`, or `rediss+cluster://`.
    pub url: String,
    /// A file that contains the URL, instead of `url`.
    pub url_file: Option<PathBuf>,
    /// Which URL of the file, from 0. A file has one URL for each Redis, separated by white space.
    pub position: usize,
    /// Which partition of a cluster, from 0. See [`Self::partitions`].
    pub partition: u16,
    /// The PEM file of the trusted certificate authorities; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// The PEM files of the client certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The number of URLs in a file, at least 1. A file that cannot be read counts as one URL.
pub fn urls_in(file: &Path) -> usize {
    let urls = |text: String| text.split_whitespace().count();
    fs::read_to_string(file).map_or(1, urls).max(1)
}

impl From<&str> for RedisAddress {
    fn from(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::default() }
    }
}

impl From<&RedisAddress> for RedisAddress {
    fn from(address: &RedisAddress) -> Self {
        address.clone()
    }
}

impl From<&String> for RedisAddress {
    fn from(url: &String) -> Self {
        url.as_str().into()
    }
}

/// A parsed URL.
#[derive(Debug)]
pub(super) struct ParsedAddress {
    /// The server. With a directory, its host and port are placeholders.
    pub(super) server: ConnectionInfo,
    /// The servers to ask for the server, and what to ask for.
    pub(super) directory: Option<(Vec<ConnectionInfo>, InCharge)>,
}

/// A server that others know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InCharge {
    /// The master that sentinels know by this name.
    Master(String),
    /// The node of a cluster that owns the slot of a partition.
    Owner { partition: u16, partitions: u16, slot: u16 },
}

impl fmt::Display for InCharge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master(name) => write!(f, "{name}"),
            Self::Owner { partition, .. } => write!(f, "partition {partition}"),
        }
    }
}

impl RedisAddress {
    /// Returns the URL, from the file if there is one.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] if the file cannot be read. Errors do not contain the content
    /// of the file.
    pub fn current_url(&self) -> Result<String, BrokerError> {
        let Some(path) = &self.url_file else { return Ok(self.url.clone()) };
        read_url(path, self.position).map_err(|error| {
            BrokerError::misconfigured(format!("--redis-url-file {}: {error}", path.display()))
        })
    }

    /// Whether the URL names a cluster.
    pub fn is_of_cluster(&self) -> bool {
        self.current_url().is_ok_and(|url| url.contains("+cluster://"))
    }

    /// Returns one address for each partition of a cluster. An address that names no cluster, or that
    /// cannot be parsed, is returned as it is.
    pub fn partitions(&self) -> Vec<Self> {
        let parsed = self.current_url().and_then(|url| self.parse(&url));
        match parsed.ok().and_then(|parsed| parsed.directory) {
            Some((_, InCharge::Owner { partitions, .. })) => {
                (0..partitions).map(|partition| Self { partition, ..self.clone() }).collect()
            }
            _ => vec![self.clone()],
        }
    }

    /// Returns the URL with another user and password, which must not need an escape in URLs.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] if the URL cannot be read.
    pub fn url_of(&self, user: &str, password: &str) -> Result<String, BrokerError> {
        let url = self.current_url()?;
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| BrokerError::misconfigured("the URL of Redis has no scheme"))?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let after_user = authority.rfind('@').map_or(0, |at| at + 1);
        Ok(format!("{scheme}://{user}:{password}@{}", &rest[after_user..]))
    }

    /// Parses a URL, and reads the certificate files once to check them.
    pub(super) fn parse(&self, url: &str) -> Result<ParsedAddress, BrokerError> {
        let parsed = if let Some((scheme, rest)) = url.split_once("+sentinel://") {
            parse_sentinels(scheme, rest)
        } else if let Some((scheme, rest)) = url.split_once("+cluster://") {
            parse_cluster(scheme, rest, self.partition)
        } else {
            parse_server(url).map(|server| ParsedAddress { server, directory: None })
        };
        let parsed = parsed.map_err(|reason| {
            BrokerError::misconfigured(format!(
                "not a Redis URL such as redis://user:password@host:6379/0: {reason}"
            ))
        })?;
        let unused = self.ca.is_some() || self.identity.is_some();
        if unused && !is_tls(&parsed.server) {
            return Err(BrokerError::misconfigured(
                "certificates are given for Redis, but its URL does not begin with rediss",
            ));
        }
        self.client(parsed.server.clone()).map_err(super::errors::broker_error)?;
        Ok(parsed)
    }

    /// Creates a client for a server or a sentinel.
    pub(super) fn client(&self, server: ConnectionInfo) -> RedisResult<Client> {
        if !is_tls(&server) {
            return Client::open(server);
        }
        let root_cert = self.ca.as_deref().map(|ca| read("--redis-ca", ca, "CERTIFICATE"));
        let identity = self.identity.as_ref().map(|(certificate, key)| {
            Ok::<_, RedisError>(ClientTlsConfig {
                client_cert: read("--redis-cert", certificate, "CERTIFICATE")?,
                client_key: read("--redis-key", key, "PRIVATE KEY")?,
            })
        });
        let certificates = TlsCertificates {
            client_tls: identity.transpose()?,
            root_cert: root_cert.transpose()?,
        };
        Client::build_with_tls(server, certificates).map_err(|error| unusable(error.to_string()))
    }
}

fn read_url(path: &Path, position: usize) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut urls = text.split_whitespace();
    match urls.nth(position) {
        Some(url) => Ok(url.to_owned()),
        None if text.trim().is_empty() => Err("the file is empty".to_owned()),
        None => Err(format!("the file contains no URL number {}", position + 1)),
    }
}

fn is_tls(server: &ConnectionInfo) -> bool {
    matches!(server.addr(), ConnectionAddr::TcpTls { .. })
}

/// Reads a PEM file that must contain a `what`.
fn read(flag: &str, path: &Path, what: &str) -> RedisResult<Vec<u8>> {
    let refuse = |why: &str| unusable(format!("{flag} {}: {why}", path.display()));
    let pem = fs::read(path).map_err(|error| refuse(&error.to_string()))?;
    // redis-rs accepts a file that is not PEM, and finds no certificates in the file.
    if String::from_utf8_lossy(&pem).contains(&format!("{what}-----")) {
        Ok(pem)
    } else {
        Err(refuse(&format!("no {what} in it, as PEM")))
    }
}

fn unusable(why: String) -> RedisError {
    (ErrorKind::InvalidClientConfig, "unusable certificates", why).into()
}

/// How long a connection may be silent before the system checks it, and how often it does so, three
/// times. A network that forgets a connection says nothing, and the transfer of a large job may take a
/// minute.
const SILENT: Duration = Duration::from_secs(5);
const CHECKED: Duration = Duration::from_secs(2);
const CHECKS: u32 = 3;

/// Uses RESP3, in which redis-rs reports broken connections.
fn parse_server(url: &str) -> Result<ConnectionInfo, String> {
    let checks = TcpKeepalive::new().with_time(SILENT).with_interval(CHECKED).with_retries(CHECKS);
    let server = parse_host(url)?;
    let server = server.set_tcp_settings(TcpSettings::default().set_keepalive(checks));
    let settings = server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(server.set_redis_settings(settings))
}

fn parse_host(url: &str) -> Result<ConnectionInfo, String> {
    // The error must not contain the URL, which may include a password.
    url.into_connection_info()
        .map_err(|error| error.detail().map_or_else(|| error.to_string(), str::to_owned))
}

/// Parses `user:password@hosts/master/database?parameters`, with each sentinel host as a separate
/// URL.
fn parse_sentinels(scheme: &str, rest: &str) -> Result<ParsedAddress, String> {
    if !matches!(scheme, "redis" | "rediss") {
        return Err("sentinels are found by redis+sentinel:// or rediss+sentinel://".to_owned());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (name, database) = path.split_once('/').unwrap_or((path, ""));
    if name.is_empty() {
        return Err(
            "expected /NAME after the hosts: the name of the master at the sentinels".to_owned()
        );
    }
    let (mut username, mut password) = ("", "");
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sentinel_username", value)) => username = value,
            Some(("sentinel_password", value)) => password = value,
            other => {
                let key = other.map_or(parameter, |(key, _)| key);
                return Err(format!("sentinels have no parameter {key}"));
            }
        }
    }
    let mut sentinels = Vec::new();
    for host in hosts.split(',') {
        // The last colon of an IPv6 address comes before its closing bracket.
        let host = with_port(host, SENTINEL_PORT);
        sentinels.push(parse_host(&format!("{scheme}://{username}:{password}@{host}"))?);
    }
    let server = parse_server(&format!("{scheme}://{user}@redis/{database}"))?;
    Ok(ParsedAddress { server, directory: Some((sentinels, InCharge::Master(name.to_owned()))) })
}

/// Parses `user:password@hosts/?partitions=4`, with each node as a separate URL.
fn parse_cluster(scheme: &str, rest: &str, partition: u16) -> Result<ParsedAddress, String> {
    if !matches!(scheme, "redis" | "rediss") {
        return Err("a cluster is found by redis+cluster:// or rediss+cluster://".to_owned());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if !matches!(database, "" | "0") {
        return Err("a cluster has only the database 0".to_owned());
    }
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut partitions = 1;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if key != "partitions" {
            return Err(format!("a cluster has no parameter {key}"));
        }
        partitions = match value.parse() {
            Ok(partitions @ 1..=MOST_PARTITIONS) => partitions,
            _ => return Err(format!("partitions must be a number from 1 to {MOST_PARTITIONS}")),
        };
    }
    let mut nodes = Vec::new();
    for host in hosts.split(',') {
        let host = with_port(host, NODE_PORT);
        nodes.push(parse_server(&format!("{scheme}://{user}@{host}"))?);
    }
    let server = nodes[0].clone();
    let slot = slot_of_partition(partition);
    let in_charge = InCharge::Owner { partition, partitions, slot };
    Ok(ParsedAddress { server, directory: Some((nodes, in_charge)) })
}

/// The host with its port, which may be missing. The colons of an address in brackets begin no port.
fn with_port(host: &str, default: u16) -> String {
    let has_port = host.rsplit(']').next().is_some_and(|tail| tail.contains(':'));
    if has_port { host.to_owned() } else { format!("{host}:{default}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<ParsedAddress, String> {
        RedisAddress::default().parse(url).map_err(|error| error.to_string())
    }

    #[test]
    fn sentinels_are_read_with_their_ports_their_master_and_both_passwords() {
        let url = "rediss+sentinel://worker:s%40fe@a,b:2,[::1],[::2]:3/main/4\
                   ?sentinel_username=looker&sentinel_password=s%2Fame";
        let ParsedAddress { server, directory } = parse(url).unwrap();
        let settings = server.redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("worker"), Some("s@fe")));
        assert_eq!(settings.db(), 4);
        let (sentinels, master) = directory.unwrap();
        assert_eq!(master, InCharge::Master("main".to_owned()));
        let hosts: Vec<String> =
            sentinels.iter().map(|sentinel| sentinel.addr().to_string()).collect();
        assert_eq!(hosts, ["a:26379", "b:2", "::1:26379", "::2:3"]);
        assert!(sentinels.iter().all(is_tls) && is_tls(&server));
        let settings = sentinels[0].redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("looker"), Some("s/ame")));
    }

    #[test]
    fn passwords_of_sentinels_are_optional() {
        let (sentinels, _) = parse("redis+sentinel://a/main").unwrap().directory.unwrap();
        let settings = sentinels[0].redis_settings();
        assert_eq!((settings.username(), settings.password()), (None, None));
    }

    #[test]
    fn an_error_about_a_url_does_not_show_its_password() {
        for (url, why) in [
            ("redis+sentinel://:secret@a:1,b", "the name of the master at the sentinels"),
            ("redis+sentinel://:secret@a:1,b/", "the name of the master at the sentinels"),
            ("http+sentinel://:secret@a/main", "redis+sentinel://"),
            ("redis+sentinel://a/main?sentinel_pasword=secret", "no parameter sentinel_pasword"),
            ("redis+sentinel://:secret@a:b/main", "not a Redis URL"),
            ("redis+sentinel://:secret@a/main/x", "database"),
            ("http+cluster://:secret@a", "redis+cluster://"),
            ("redis+cluster://:secret@a/1", "only the database 0"),
            ("redis+cluster://:secret@a?partitions=0", "a number from 1 to 64"),
            ("redis+cluster://:secret@a?partitions=65", "a number from 1 to 64"),
            ("redis+cluster://:secret@a/?shards=secret", "no parameter shards"),
            ("redis+cluster://:secret@a:b", "not a Redis URL"),
        ] {
            let error = parse(url).err().unwrap();
            assert!(error.contains(why) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_cluster_is_read_with_its_nodes_and_has_an_address_for_each_partition() {
        let url = "rediss+cluster://worker:s%40fe@a,b:2,[::1]/?partitions=3";
        let address = RedisAddress::from(url);
        let parsed = address.parse(url).unwrap();
        let settings = parsed.server.redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("worker"), Some("s@fe")));
        let (nodes, _) = parsed.directory.unwrap();
        let hosts: Vec<String> = nodes.iter().map(|node| node.addr().to_string()).collect();
        assert_eq!(hosts, ["a:6379", "b:2", "::1:6379"]);
        assert!(nodes.iter().all(is_tls));
        let in_charge = |address: &RedisAddress| address.parse(url).unwrap().directory.unwrap().1;
        let partitions = address.partitions();
        let owner = |partition, slot| InCharge::Owner { partition, partitions: 3, slot };
        let owners: Vec<_> = partitions.iter().map(in_charge).collect();
        assert_eq!(owners, [owner(0, 247), owner(1, 8373), owner(2, 4310)]);
        for alone in ["redis://a", "redis+cluster://a", "redis+cluster://a/0?partitions=x"] {
            assert_eq!(RedisAddress::from(alone).partitions().len(), 1, "{alone}");
        }
    }

    #[test]
    fn another_user_gets_the_same_hosts() {
        for (url, expected) in [
            ("redis://redis:1/2", "redis://u:p@redis:1/2"),
            ("rediss://controller:a%40b@redis:1", "rediss://u:p@redis:1"),
            ("redis+cluster://a:1,b:2?partitions=4", "redis+cluster://u:p@a:1,b:2?partitions=4"),
            (
                "redis+sentinel://:x@a,[::1]:2/main?sentinel_password=y@z",
                "redis+sentinel://u:p@a,[::1]:2/main?sentinel_password=y@z",
            ),
        ] {
            assert_eq!(RedisAddress::from(url).url_of("u", "p").unwrap(), expected);
        }
        assert!(RedisAddress::from("redis").url_of("u", "p").is_err());
    }

    #[test]
    fn certificates_without_tls_are_a_contradiction() {
        let ca = Some("/ca.pem".into());
        let address = RedisAddress { ca, ..RedisAddress::default() };
        assert!(address.parse("redis://host").err().unwrap().to_string().contains("rediss"));
    }
}
