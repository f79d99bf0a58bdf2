//! Where the keys of an issuer are read from.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use batchfleet_service::InvalidSettings;
use reqwest::{Certificate, Client, Url};
use serde::Deserialize;

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

/// Path of an issuer's metadata, as of `OpenID` Connect Discovery.
const METADATA: &str = "/.well-known/openid-configuration";

/// A file or a URL with the keys of an issuer.
#[derive(Debug)]
pub(super) enum Source {
    /// A file.
    File(PathBuf),
    /// A URL, and the client that reads it.
    Url(Url, Client),
    /// The URL that the metadata of the issuer names.
    Discovered(Discovery),
}

/// An issuer with metadata, and the client that reads them.
#[derive(Debug)]
pub(super) struct Discovery {
    issuer: String,
    metadata: Url,
    client: Client,
}

impl Source {
    /// The source that the settings name; `None` if the gateway takes no tokens.
    ///
    /// # Errors
    ///
    /// The URL is malformed, or the file of CA certificates cannot be used.
    pub(super) fn of(settings: &TokenSettings) -> Result<Option<Self>, InvalidSettings> {
        let Some(issuer) = &settings.jwt_issuer else { return Ok(None) };
        if let Some(path) = &settings.jwt_jwks_file {
            return Ok(Some(Self::File(path.clone())));
        }
        let invalid = |text: String| InvalidSettings::new(text);
        let Some(url) = &settings.jwt_jwks_url else {
            let metadata = http_url(&format!("{}{METADATA}", issuer.trim_end_matches('/')));
            let metadata = metadata.ok_or_else(|| {
                invalid(format!(
                    "--jwt-issuer {issuer} is not an http or https URL, at which the keys could be \
                     found: set --jwt-jwks-url or --jwt-jwks-file"
                ))
            })?;
            let (issuer, client) = (issuer.clone(), client(settings)?);
            return Ok(Some(Self::Discovered(Discovery { issuer, metadata, client })));
        };
        let parsed = http_url(url)
            .ok_or_else(|| invalid(format!("--jwt-jwks-url {url} is not an http or https URL")))?;
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
            Self::Discovered(discovery) => discovery.read().await,
        }
    }

    /// The time until the next read, after a success or a failure.
    pub(super) fn interval(&self, succeeded: bool) -> Duration {
        match self {
            Self::File(_) => FILE_INTERVAL,
            _ if succeeded => URL_INTERVAL,
            _ => URL_RETRY,
        }
    }

    /// The least time between reads that tokens with unknown keys cause.
    pub(super) fn least_interval(&self) -> Duration {
        match self {
            Self::File(_) => Duration::from_secs(1),
            _ => Duration::from_secs(2),
        }
    }
}

impl Discovery {
    /// Reads the metadata and then the keys. Both are read each time, because an issuer may move its
    /// keys.
    async fn read(&self) -> Result<Vec<u8>, String> {
        let of_metadata = |error: String| format!("{}: {error}", self.metadata);
        let metadata = fetch(&self.client, self.metadata.clone()).await.map_err(of_metadata)?;
        let keys = self.keys(&metadata).map_err(of_metadata)?;
        fetch(&self.client, keys.clone()).await.map_err(|error| format!("{keys}: {error}"))
    }

    /// Returns the URL of the keys. The metadata must name this issuer, else those of another issuer
    /// could replace its keys.
    fn keys(&self, metadata: &[u8]) -> Result<Url, String> {
        let metadata: Metadata = serde_json::from_slice(metadata)
            .map_err(|error| format!("not the metadata of an issuer: {error}"))?;
        if metadata.issuer != self.issuer {
            return Err(format!("the metadata are of the issuer {}", metadata.issuer));
        }
        http_url(&metadata.jwks_uri)
            .filter(|keys| keys.scheme() == "https" || self.metadata.scheme() == "http")
            .ok_or_else(|| format!("the URL of the keys is {}", metadata.jwks_uri))
    }
}

/// The fields of an issuer's metadata that are used.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

fn http_url(url: &str) -> Option<Url> {
    Url::parse(url).ok().filter(|url| ["http", "https"].contains(&url.scheme()))
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
    client.build().map_err(|error| InvalidSettings::new(format_args!("--jwt-issuer: {error}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery(issuer: &str) -> Result<Discovery, String> {
        let jwt_issuer = Some(issuer.to_owned());
        match Source::of(&TokenSettings { jwt_issuer, ..TokenSettings::default() }) {
            Ok(Some(Source::Discovered(discovery))) => Ok(discovery),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_metadata_are_below_the_url_of_the_issuer() {
        for issuer in ["https://id.example/realms/ml", "https://id.example/realms/ml/"] {
            let metadata = discovery(issuer).unwrap().metadata;
            let expected = "https://id.example/realms/ml/.well-known/openid-configuration";
            assert_eq!(metadata.as_str(), expected);
        }
        for issuer in ["batchfleet", "ftp://id.example", ""] {
            assert!(discovery(issuer).unwrap_err().contains("set --jwt-jwks-url"), "{issuer}");
        }
    }

    #[test]
    fn metadata_of_another_issuer_or_keys_without_tls_are_refused() {
        let issuer = "https://id.example";
        let keys = |issuer: &str, keys: &str| {
            let metadata = serde_json::json!({ "issuer": issuer, "jwks_uri": keys }).to_string();
            discovery("https://id.example").unwrap().keys(metadata.as_bytes())
        };
        assert_eq!(keys(issuer, "https://keys.example/a").unwrap().path(), "/a");
        assert!(keys("https://id.example.org", "https://keys.example").is_err());
        assert!(keys("https://id.example/", "https://keys.example").is_err());
        for wrong in ["http://id.example/keys", "file:///etc/passwd", "keys"] {
            assert!(keys(issuer, wrong).is_err(), "{wrong}");
        }
        assert!(discovery(issuer).unwrap().keys(b"<html>").is_err());
    }
}
