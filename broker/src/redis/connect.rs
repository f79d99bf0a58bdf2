//! Settings of connections, and what servers say about themselves.

use std::{io, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError,
    ServerErrorKind, aio::ConnectionLike,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::errors::{broker_error, rustls_error};
use crate::BrokerError;

/// Timeout for opening a connection, and for the answer to a command that does not block.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Settings of every connection. The default timeout of redis-rs for an answer is 500 ms.
pub(super) fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
}

/// Reads sections of `INFO`. Returns `None` if the Redis user lacks the permission for `INFO`,
/// which is a valid configuration.
pub(super) async fn info(
    connection: &mut impl ConnectionLike,
    sections: &[&str],
) -> Result<Option<Info>, BrokerError> {
    Info::of(redis::cmd("INFO").arg(sections).query_async(connection).await)
}

/// The answer to `INFO`.
pub(super) struct Info(String);

impl Info {
    /// The answer, like that of [`info`].
    pub(super) fn of(answer: Result<String, RedisError>) -> Result<Option<Self>, BrokerError> {
        match answer {
            Ok(text) => Ok(Some(Self(text))),
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(None),
            Err(error) => Err(broker_error(error)),
        }
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
    }
}

/// What a Redis says that closes each new connection unasked, in protected mode or with too many
/// clients; the attempt to connect only sees the end of the connection.
pub(super) async fn refusal(server: &ConnectionInfo) -> Option<String> {
    const LONGEST: u64 = 200;
    let ConnectionAddr::Tcp(host, port) = server.addr() else { return None };
    let listen = async {
        let stream = TcpStream::connect((&**host, *port)).await?;
        let mut line = Vec::new();
        stream.take(LONGEST).read_to_end(&mut line).await?;
        Ok::<_, io::Error>(line)
    };
    let line = timeout(PATIENCE, listen).await.ok()?.ok()?;
    let line = String::from_utf8_lossy(&line);
    let refusal = line.strip_prefix('-')?.lines().next()?.trim();
    Some(format!("Redis at {host}:{port} refuses this connection: {refusal}"))
}

/// Fails if the address expects TLS and the server does not, or the reverse. Redis does not report
/// this mistake: it waits for the end of a line, or closes the connection.
pub(super) async fn refuse_mistaken(server: &ConnectionInfo) -> Result<(), BrokerError> {
    let (host, port, mistaken) = match server.addr() {
        ConnectionAddr::TcpTls { host, port, .. } => {
            (host, port, speaks_plainly(host, *port).await)
        }
        ConnectionAddr::Tcp(host, port) => (host, port, speaks_tls(host, *port).await),
        _ => return Ok(()),
    };
    let (speaks, scheme) = match server.addr() {
        ConnectionAddr::Tcp(..) => ("TLS", "rediss"),
        _ => ("no TLS", "redis"),
    };
    if !mistaken {
        return Ok(());
    }
    Err(BrokerError::misconfigured(format!(
        "Redis at {host}:{port} speaks {speaks}: its URL begins with {scheme}"
    )))
}

async fn speaks_plainly(host: &str, port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(b"PING\r\n").await?;
        stream.read_u8().await
    };
    matches!(timeout(PATIENCE, ask).await, Ok(Ok(b'+' | b'-')))
}

async fn speaks_tls(host: &str, port: u16) -> bool {
    let host = host.to_owned();
    let tls = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
    let Ok(client) = Client::open(tls) else { return false };
    match client.get_multiplexed_async_connection_with_config(&connection_config()).await {
        Ok(_) => true,
        // Even with an untrusted certificate, the server has answered with TLS.
        Err(error) => {
            let fault = rustls_error(&error);
            fault.is_some_and(|fault| !matches!(fault, rustls::Error::InvalidMessage(_)))
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_redis_that_closes_new_connections_is_quoted() {
        for (says, expected) in [
            ("-ERR max number of clients reached\r\n", Some("refuses this connection: ERR max")),
            ("-DENIED Redis is running in protected mode\r\n", Some("in protected mode")),
            ("HTTP/1.1 400 Bad Request\r\n", None),
            ("", None),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("redis://{}", listener.local_addr().unwrap());
            let server = url.into_connection_info().unwrap();
            let answer = async {
                listener.accept().await.unwrap().0.write_all(says.as_bytes()).await.unwrap();
            };
            let (refusal, ()) = tokio::join!(refusal(&server), answer);
            let found = expected.is_none_or(|part| refusal.as_ref().unwrap().contains(part));
            assert!(found && refusal.is_some() == expected.is_some(), "{refusal:?}");
        }
    }
}
