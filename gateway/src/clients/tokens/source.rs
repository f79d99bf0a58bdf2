//! Where the keys of an issuer are read from.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use batchfleet_service::InvalidSettings;
use reqwest::{Certificate, Client, Url};

use super::TokenSettings;

/// Interval between reads of a file.
const FILE_INTERVAL: Duration = Duration::from_secs(5);
/// Interval between reads of a URL.
const URL_INTERVAL: Duration = Duration::from_mins(5);
/// Interval between reads of a URL after a failure.
const URL_RETRY: Duration = Duration::from_secs(10);
/// Time limit for a read of a URL.
const URL_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a JSON web key set, in bytes.
const MOST_BYTES: usize = 1 << 20;

/// A file or a URL with the keys of an issuer.
#[derive(Debug)]
pub(super) enum Source {
    /// A file.
    File(PathBuf),
    /// A URL, and the client that reads it.
    Url(Url, Client),
}

impl Source {
    /// The source that the settings name; `None` if the gateway takes no tokens.
    ///
    /// # Errors
    ///
    /// The URL is malformed, or the file of CA certificates cannot be used.
    pub(super) fn of(settings: &TokenSettings) -> Result<Option<Self>, InvalidSettings> {
        if settings.jwt_issuer.is_none() {
            return Ok(None);
        }
        if let Some(path) = &settings.jwt_jwks_file {
            return Ok(Some(Self::File(path.clone())));
        }
        let Some(url) = &settings.jwt_jwks_url else { return Ok(None) };
        let parsed = Url::parse(url).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
        let parsed = parsed.ok_or_else(|| {
            InvalidSettings::new(format_args!("--jwt-jwks-url {url} is not an http or https URL"))
        })?;
        let client = client(settings)?;
        Ok(Some(Self::Url(parsed, client)))
    }

    /// Reads the JSON web key set.
    ///
    /// # Errors
    ///
    /// The file or URL, and why it cannot be read.
    pub(super) async fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => read_file(path),
            Self::Url(url, client) => fetch(client, url.clone())
                .await
                .map_err(|error| format!("--jwt-jwks-url {url}: {error}")),
        }
    }

    /// The time until the next read, after a success or a failure.
    pub(super) fn interval(&self, succeeded: bool) -> Duration {
        match self {
            Self::File(_) => FILE_INTERVAL,
            Self::Url(..) if succeeded => URL_INTERVAL,
            Self::Url(..) => URL_RETRY,
        }
    }

    /// The least time between reads that tokens with unknown keys cause.
    pub(super) fn least_interval(&self) -> Duration {
        match self {
            Self::File(_) => Duration::from_secs(1),
            Self::Url(..) => Duration::from_secs(2),
        }
    }
}

/// Reads a file, which is small and local.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("--jwt-jwks-file {}: {error}", path.display()))
}

fn client(settings: &TokenSettings) -> Result<Client, InvalidSettings> {
    // reqwest is built without a TLS provider of its own. Installing the provider fails harmlessly
    // if it is installed already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut client = Client::builder().timeout(URL_TIMEOUT);
    if let Some(path) = &settings.jwt_jwks_ca {
        let wrong = |error: String| {
            InvalidSettings::new(format_args!("--jwt-jwks-ca {}: {error}", path.display()))
        };
        let pem = fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let roots = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
        client = client.tls_certs_only(roots);
    }
    client.build().map_err(|error| InvalidSettings::new(format_args!("--jwt-jwks-url: {error}")))
}

async fn fetch(client: &Client, url: Url) -> Result<Vec<u8>, String> {
    let text = |error: reqwest::Error| {
        batchfleet_service::sentence(&anyhow::Error::from(error.without_url()))
    };
    let answer = client.get(url).send().await.map_err(text)?;
    let mut answer = answer.error_for_status().map_err(text)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(text)? {
        body.extend_from_slice(&chunk);
        if body.len() > MOST_BYTES {
            return Err(format!("the answer has more than {MOST_BYTES} bytes"));
        }
    }
    Ok(body)
}
