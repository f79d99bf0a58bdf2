//! Settings of TLS on the port for clients.

use std::path::PathBuf;

use batchfleet_service::InvalidSettings;
use clap::Args;

use super::files::TlsFiles;

/// The files of TLS on the port for clients.
#[derive(Args, Clone, Debug, Default)]
pub struct TlsSettings {
    /// PEM file with the certificate of this server, followed by the intermediate ones: the port for
    /// clients then speaks HTTPS only (TLS 1.2 or 1.3). Changes of this and the two other files apply
    /// to new connections within 5 seconds, without a restart
    #[arg(long, env = "BATCHFLEET_TLS_CERT", requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the key of the certificate
    #[arg(long, env = "BATCHFLEET_TLS_KEY", requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// PEM file with the authorities that sign certificates of clients. A client is then identified by
    /// its certificate: its name is the common name of the subject, or else the first alternative
    /// name. A request without a certificate needs an API key or a token if the gateway takes these,
    /// and is refused with 401 otherwise
    #[arg(long, env = "BATCHFLEET_TLS_CLIENT_CA", requires = "tls_cert", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
}

impl TlsSettings {
    /// The files of the port; `None` if it speaks plain HTTP.
    pub(super) fn files(&self) -> Option<TlsFiles> {
        let (certificate, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        Some(TlsFiles { certificate, key, client_ca: self.tls_client_ca.clone() })
    }

    /// Checks that the files can be used.
    pub(crate) fn check(&self) -> Result<(), InvalidSettings> {
        let Some(files) = self.files() else { return Ok(()) };
        files.load().map(drop).map_err(InvalidSettings::new)
    }
}
