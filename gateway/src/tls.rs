//! TLS on the port for clients: the handshake, and the name in the certificate of a client.

mod certificate;
mod files;
mod settings;
mod transport;

use std::{fmt, io, sync::Arc};

use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::{
    net::TcpStream,
    time::{Duration, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, info, warn};

pub(crate) use self::transport::{CertificateName, Transport};
use self::{
    certificate::Validity,
    files::{Loaded, TlsFiles},
};
pub use self::{files::TlsError, settings::TlsSettings};
use crate::{memory::MemoryBudget, metrics::AccessMetrics, reload::Reloaded};

/// Time limit for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Maximum number of encrypted bytes of an answer that wait for the client to read.
const UNSENT: usize = 16 << 10;
/// The memory of a TLS connection beside that of a plain one, in bytes: 8 KiB were measured while it is
/// idle, and an answer that waits needs [`UNSENT`].
const CONNECTION_BYTES: usize = (8 << 10) + UNSENT;

/// The protocol of a port, which TLS negotiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/2 or HTTP/1.1.
    Http,
    /// gRPC, over HTTP/2.
    Grpc,
}

/// Opens a connection on which the client has begun to send, with a TLS handshake if the port speaks
/// TLS. Clients open connections ahead of need, and may send their first byte much later.
///
/// # Errors
///
/// The client has left, the handshake failed, or the memory of connections is full.
pub(crate) async fn open(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    protocol: Protocol,
) -> io::Result<Transport> {
    let Some(tls) = tls else { return Ok(Transport::Plain(stream)) };
    stream.readable().await?;
    let mut share = tls.memory.share();
    share.resize(CONNECTION_BYTES).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let stream = tls.accept(stream, protocol).await?;
    Ok(Transport::tls(stream, share))
}

/// Accepts TLS connections with the certificates that were last read from the files.
pub(crate) struct Tls {
    files: TlsFiles,
    current: RwLock<Loaded>,
    metrics: AccessMetrics,
    memory: Arc<MemoryBudget>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files that the settings name. Connections take their memory from `memory`. Returns
    /// `None` if the port speaks plain HTTP.
    ///
    /// # Errors
    ///
    /// [`TlsError`]
    pub(crate) fn new(
        settings: &TlsSettings,
        metrics: &AccessMetrics,
        memory: &Arc<MemoryBudget>,
    ) -> Result<Option<Arc<Self>>, TlsError> {
        let Some(files) = settings.files() else { return Ok(None) };
        let current = files.load()?;
        if let Err(problem) = files.check_end(&current) {
            warn!("serving a certificate that clients refuse: {problem}");
        }
        publish(&current.validity, metrics);
        let current = RwLock::new(current);
        let (metrics, memory) = (metrics.clone(), memory.clone());
        Ok(Some(Arc::new(Self { files, current, metrics, memory })))
    }

    /// Performs the handshake on a new connection.
    ///
    /// # Errors
    ///
    /// The client speaks no TLS, presents a certificate of an unknown authority, or takes too long.
    async fn accept(
        &self,
        stream: TcpStream,
        protocol: Protocol,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config: Arc<ServerConfig> = {
            let current = self.current.read();
            match protocol {
                Protocol::Http => current.http.clone(),
                Protocol::Grpc => current.grpc.clone(),
            }
        };
        let accepting = TlsAcceptor::from(config).accept_with(stream, |connection| {
            connection.set_buffer_limit(Some(UNSENT));
        });
        let accepted = timeout(HANDSHAKE, accepting).await;
        let accepted = accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        accepted.inspect_err(|error| {
            self.metrics.handshake_failures.inc();
            debug!(%error, "TLS handshake failed");
        })
    }

    /// Task: applies changes of the files to new connections.
    pub(crate) async fn follow(self: Arc<Self>) {
        let failures = self.metrics.reload_failures("tls");
        let files = self.files.clone();
        let read = move || {
            let loaded = files.load()?;
            files.check_end(&loaded)?;
            Ok::<_, TlsError>(loaded)
        };
        Reloaded::new("TLS certificates", failures).follow(read, |new| self.adopt(new)).await;
    }

    fn adopt(&self, new: Loaded) {
        let mut current = self.current.write();
        if current.content != new.content {
            info!("reloaded TLS certificates");
            publish(&new.validity, &self.metrics);
            *current = new;
        }
    }
}

fn publish(validity: &Validity, metrics: &AccessMetrics) {
    metrics.certificate_expires("server", validity.server);
    if let Some(client_ca) = validity.client_ca {
        metrics.certificate_expires("client_ca", client_ca);
    }
}
