//! The keep-alive connection of a user, reopened after a loss.

use std::{fmt, future::poll_fn, io, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    client::conn::http1,
    header::{CONNECTION, HOST, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use crate::{
    error::LoadError,
    grpc, http2,
    tls::{Tls, TlsTrust},
    workload::{HttpAnswer, Prepared},
};

/// Connections opened at the same time. More would overflow the server's listen backlog, and the
/// load would measure TCP retransmission timers.
const CONNECTING: usize = 128;

/// The header with the API key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A server (`http://host:port` or `https://host:port`), and the headers that identify the load.
#[derive(Clone)]
pub struct Target {
    address: Arc<str>,
    host: HeaderValue,
    headers: HeaderMap,
    /// TLS, if the server speaks it.
    tls: Option<Tls>,
    protocol: Protocol,
}

/// The protocol of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    Grpc,
}

impl Target {
    /// Adds an API key, sent as `x-api-key` in each request.
    pub fn with_key(self, key: &str) -> Result<Self, LoadError> {
        let mut key = HeaderValue::from_str(key)
            .map_err(|_| LoadError::Plan("an API key must be printable ASCII".to_owned()))?;
        key.set_sensitive(true);
        let mut headers = self.headers;
        headers.insert(API_KEY, key);
        Ok(Self { headers, ..self })
    }

    /// Adds a header such as `authorization: Bearer TOKEN` to each request.
    pub fn with_header(self, header: &str) -> Result<Self, LoadError> {
        let malformed = || LoadError::Plan("a header must be `NAME: VALUE`".to_owned());
        let (name, value) = header.split_once(':').ok_or_else(malformed)?;
        let name: HeaderName = name.trim().parse().map_err(|_| malformed())?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| malformed())?;
        value.set_sensitive(true);
        let mut headers = self.headers;
        headers.insert(name, value);
        Ok(Self { headers, ..self })
    }

    /// Sends all requests over gRPC. Only requests in the encoding of gRPC can then be sent.
    #[must_use]
    pub fn over_grpc(self) -> Self {
        Self { protocol: Protocol::Grpc, ..self.over_http2() }
    }

    /// Sends all requests over HTTP/2, without TLS with prior knowledge.
    #[must_use]
    pub fn over_http2(self) -> Self {
        let tls = self.tls.map(Tls::over_http2);
        Self { tls, protocol: Protocol::Http2, ..self }
    }

    /// Verifies the server with these authorities instead of the system's, and presents the client
    /// certificate. Has no effect on a server without TLS.
    pub fn trusting(self, trust: &TlsTrust<'_>) -> Result<Self, LoadError> {
        let Some(tls) = &self.tls else { return Ok(self) };
        let tls = Some(tls.trusting(trust)?);
        Ok(Self { tls, ..self })
    }

    /// The address of a path in whole, as HTTP/2 asks for.
    fn absolute(&self, path: &Uri) -> Result<Uri, Lost> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let host = self.host.to_str().map_err(io::Error::other)?;
        let whole = Uri::builder().scheme(scheme).authority(host).path_and_query(path.path());
        Ok(whole.build().map_err(io::Error::other)?)
    }

    /// Sends one request on a new connection. Returns the status and the answer.
    pub async fn ask(
        &self,
        request: Prepared,
        patience: Duration,
    ) -> Result<(StatusCode, HttpAnswer), LoadError> {
        let mut connection = Connection::new(self.clone(), patience, connecting());
        connection.ask(request).await.map_err(|lost| LoadError::Unreachable {
            target: self.to_string(),
            reason: lost.to_string(),
        })
    }
}

impl FromStr for Target {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        let malformed =
            || LoadError::Plan(format!("{text:?} is not http://host:port or https://host:port"));
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let authority = uri.authority().ok_or_else(malformed)?;
        let is_bare = uri.path() == "/" && uri.query().is_none();
        let (port, tls) = match uri.scheme_str() {
            Some("http") if is_bare => (80, None),
            Some("https") if is_bare => {
                (443, Some(Tls::new(authority.host(), &TlsTrust::default())?))
            }
            _ => return Err(malformed()),
        };
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(port));
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| malformed())?;
        Ok(Self {
            address: address.into(),
            host,
            headers: HeaderMap::new(),
            tls,
            protocol: Protocol::Http1,
        })
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.address).finish()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// The reason why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// No connection could be opened.
    #[error("connect: {0}")]
    Connect(#[from] io::Error),
    /// The connection was lost before the answer was complete.
    #[error("connection lost: {0}")]
    Connection(#[from] hyper::Error),
    /// As above, over HTTP/2.
    #[error("connection lost: {0}")]
    Http2(#[from] h2::Error),
    /// The timeout expired.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The user hung up on purpose.
    #[error("hung up")]
    HungUp,
}

impl Lost {
    /// Whether the server has said goodbye before it has seen the request over HTTP/2.
    fn is_unprocessed(&self) -> bool {
        matches!(self, Self::Http2(error) if http2::is_unprocessed(error))
    }

    /// Whether the server has certainly not seen the request, which may then be sent again.
    fn is_unsent(&self) -> bool {
        self.is_unprocessed() || matches!(self, Self::Connection(error) if error.is_canceled())
    }
}

/// The sender of an open connection.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(h2::client::SendRequest<Bytes>),
}

impl Sender {
    /// Waits until the connection takes a request; `false` if it is closed.
    async fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => poll_fn(|context| sender.poll_ready(context)).await.is_ok(),
        }
    }

    /// Sends a request and waits for the complete answer.
    async fn ask(&mut self, request: Request<Bytes>) -> Result<(StatusCode, HttpAnswer), Lost> {
        match self {
            Self::Http1(sender) => {
                let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok((head.status, HttpAnswer { headers: head.headers, body }))
            }
            Self::Http2(sender) => Ok(http2::ask(sender, request).await?),
        }
    }
}

/// The connection of one user to its target.
pub(crate) struct Connection {
    pub(crate) target: Target,
    patience: Duration,
    connecting: Arc<Semaphore>,
    open: Option<Sender>,
    /// How often the connection was closed without `connection: close`.
    pub(crate) dropped: u64,
}

/// Limits the connections opened at the same time; shared by all users.
pub(crate) fn connecting() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTING))
}

impl Connection {
    pub(crate) fn new(target: Target, patience: Duration, connecting: Arc<Semaphore>) -> Self {
        Self { target, patience, connecting, open: None, dropped: 0 }
    }

    /// Opens the connection if it is closed.
    pub(crate) async fn open(&mut self) -> Result<(), Lost> {
        let patience = self.patience;
        timeout(patience, self.sender()).await.map_err(|_| Lost::Timeout(patience))??;
        Ok(())
    }

    /// Sends a request and waits for the complete answer.
    pub(crate) async fn ask(
        &mut self,
        request: Prepared,
    ) -> Result<(StatusCode, HttpAnswer), Lost> {
        let (patience, impatient) = match request.hang_up {
            Some(hang_up) if hang_up < self.patience => (hang_up, Lost::HungUp),
            _ => (self.patience, Lost::Timeout(self.patience)),
        };
        let asked = timeout(patience, self.exchange_on_some(request)).await;
        let asked = asked.unwrap_or(Err(impatient));
        if asked.is_err() {
            self.open = None;
        }
        asked
    }

    /// Sends the request. If the server had closed the idle connection, which it may at any time,
    /// the request is sent on a new connection.
    async fn exchange_on_some(
        &mut self,
        request: Prepared,
    ) -> Result<(StatusCode, HttpAnswer), Lost> {
        match self.exchange(request.clone()).await {
            Err(lost) if lost.is_unsent() => {
                self.open = None;
                self.exchange(request).await
            }
            exchanged => exchanged,
        }
    }

    async fn exchange(&mut self, request: Prepared) -> Result<(StatusCode, HttpAnswer), Lost> {
        let mut message = Request::new(request.body);
        *message.method_mut() = request.method;
        *message.uri_mut() = request.uri;
        *message.headers_mut() = request.headers;
        if self.target.protocol == Protocol::Http1 {
            message.headers_mut().insert(HOST, self.target.host.clone());
        } else {
            *message.uri_mut() = self.target.absolute(message.uri())?;
        }
        message.headers_mut().extend(self.target.headers.clone());
        let sender = self.sender().await?;

        let answered = sender.ask(message).await;
        let (mut status, mut answer) =
            answered.inspect_err(|lost| self.dropped += u64::from(!lost.is_unprocessed()))?;
        if self.target.protocol == Protocol::Grpc {
            (status, answer) = grpc::as_http(answer);
        }
        if is_last(&answer.headers) {
            self.open = None;
        }
        Ok((status, answer))
    }

    /// The open connection, or a new one.
    async fn sender(&mut self) -> Result<&mut Sender, Lost> {
        let still_open = match self.open.take() {
            Some(mut sender) => {
                let alive = sender.is_ready().await;
                // Over HTTP/2 a server says goodbye first.
                self.dropped += u64::from(!alive && self.target.protocol == Protocol::Http1);
                alive.then_some(sender)
            }
            None => None,
        };
        let sender = match still_open {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        Ok(self.open.insert(sender))
    }

    async fn connect(&self) -> Result<Sender, Lost> {
        let _turn = self.connecting.acquire().await.map_err(io::Error::other)?;
        let stream = TcpStream::connect(&*self.target.address).await?;
        stream.set_nodelay(true)?;
        match &self.target.tls {
            None => handshake(stream, self.target.protocol).await,
            Some(tls) => handshake(tls.connect(stream).await?, self.target.protocol).await,
        }
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    protocol: Protocol,
) -> Result<Sender, Lost> {
    if protocol != Protocol::Http1 {
        return Ok(Sender::Http2(http2::handshake(stream).await?));
    }
    // The task ends when the sender is dropped. Errors of the connection reach the sender.
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Sender::Http1(sender))
}

/// Whether the server will close the connection after this answer.
fn is_last(headers: &HeaderMap) -> bool {
    headers.get(CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_a_name_and_a_value() {
        let target: Target = "http://gateway".parse().unwrap();
        let target = target.with_header("Authorization:  Bearer a:b").unwrap();
        assert_eq!(target.headers["authorization"], "Bearer a:b");
        for wrong in ["", "authorization", "a b: c", "a: b\nc"] {
            assert!(target.clone().with_header(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_target_is_a_bare_http_address() {
        let target: Target = "http://127.0.0.1:8080".parse().unwrap();
        assert_eq!(target.to_string(), "127.0.0.1:8080");
        let target: Target = "http://gateway/".parse().unwrap();
        assert_eq!(target.to_string(), "gateway:80");
        let target: Target = "https://gateway".parse().unwrap();
        assert_eq!(target.to_string(), "gateway:443");
        for wrong in ["127.0.0.1:8080", "ftp://a:1", "http://a:1/v2", "http://a:1/?x", ""] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong:?}");
        }
    }
}
