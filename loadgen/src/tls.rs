//! TLS to a server.

use std::{fs, io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::LoadError;

/// How servers are authenticated, and with which certificate the load authenticates itself.
#[derive(Clone, Debug, Default)]
pub struct TlsTrust<'a> {
    /// PEM file with the authorities that sign certificates of servers; `None` for the system's.
    pub ca: Option<&'a Path>,
    /// PEM files with a client certificate and its key.
    pub identity: Option<(&'a Path, &'a Path)>,
}

/// The TLS side of a target.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl Tls {
    /// TLS to the server of this name.
    pub(crate) fn new(server: &str, trust: &TlsTrust<'_>) -> Result<Self, LoadError> {
        let bare = server.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned());
        let server = name.map_err(|error| LoadError::Tls(format!("{server}: {error}")))?;
        let connector = TlsConnector::from(Arc::new(trust.config()?));
        Ok(Self { connector, server })
    }

    /// TLS to the same server, which negotiates HTTP/2.
    pub(crate) fn over_http2(self) -> Self {
        let mut config = ClientConfig::clone(self.connector.config());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { connector: TlsConnector::from(Arc::new(config)), ..self }
    }

    /// TLS to the same server with other trust.
    pub(crate) fn trusting(&self, trust: &TlsTrust<'_>) -> Result<Self, LoadError> {
        let connector = TlsConnector::from(Arc::new(trust.config()?));
        Ok(Self { connector, server: self.server.clone() })
    }

    /// Performs the handshake.
    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.server.clone(), stream).await
    }
}

impl TlsTrust<'_> {
    fn config(&self) -> Result<ClientConfig, LoadError> {
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| LoadError::Tls(error.to_string()))?
            .with_root_certificates(self.roots()?);
        let Some((certificate, key)) = self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let wrong = |error: &dyn std::fmt::Display| {
            LoadError::Tls(format!("{}, {}: {error}", certificate.display(), key.display()))
        };
        let pem = fs::read(key).map_err(|error| wrong(&error))?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| wrong(&error))?;
        let chain = certificates(certificate)?;
        builder.with_client_auth_cert(chain, key).map_err(|error| wrong(&error))
    }

    fn roots(&self) -> Result<RootCertStore, LoadError> {
        let mut roots = RootCertStore::empty();
        let Some(path) = self.ca else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        };
        for certificate in certificates(path)? {
            let added = roots.add(certificate);
            added.map_err(|error| LoadError::Tls(format!("{}: {error}", path.display())))?;
        }
        Ok(roots)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let wrong =
        |error: &dyn std::fmt::Display| LoadError::Tls(format!("{}: {error}", path.display()));
    let pem = fs::read(path).map_err(|error| wrong(&error))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| wrong(&error))?;
    if certificates.is_empty() {
        return Err(wrong(&"the file contains no certificate in PEM format"));
    }
    Ok(certificates)
}
