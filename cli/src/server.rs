//! The server that a tool connects to.

use std::path::PathBuf;

use batchfleet_loadgen::{LoadError, Target, TlsTrust};
use clap::Args;

/// How a tool identifies itself to a server, and the server to the tool.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerSettings {
    /// API key, sent as x-api-key
    #[arg(long, env = "BATCHFLEET_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,

    /// A header of each request, such as `authorization: Bearer TOKEN`; may be given several times
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,

    /// PEM file with the CA certificates that the certificate of an https server is verified with
    /// [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// PEM file with the client certificate, for an https server that requires one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// PEM file with the key of the client certificate
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl ServerSettings {
    /// The server at this URL.
    pub(crate) fn target(&self, url: &str) -> Result<Target, LoadError> {
        let mut target: Target = url.parse()?;
        if let Some(key) = &self.api_key {
            target = target.with_key(key)?;
        }
        for header in &self.header {
            target = target.with_header(header)?;
        }
        let identity = self.cert.as_deref().zip(self.key.as_deref());
        target.trusting(&TlsTrust { ca: self.ca.as_deref(), identity })
    }
}
