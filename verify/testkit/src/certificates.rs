//! Certificates for servers and clients on this machine.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use crate::{RedisServer, redis_server::free_address};

/// A certificate for `127.0.0.1` and its key, and who vouches for it, in files of PEM.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes them; nobody else vouches for them.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn new() -> Result<Self> {
        let certificates = Self { folder: TempDir::new()? };
        certificates.renew()?;
        Ok(certificates)
    }

    /// Makes all of them anew, in the same files.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn renew(&self) -> Result<()> {
        let mut authority = CertificateParams::new(Vec::new())?;
        // Not the name of who is vouched for, which would look as if it vouched for itself.
        authority.distinguished_name.push(DnType::CommonName, "authority of a test");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        fs::write(self.ca(), authority.pem())?;
        fs::write(self.certificate(), certificate.pem())?;
        fs::write(self.key(), key.serialize_pem())?;
        Ok(())
    }

    /// Who vouches.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// Its key.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Starts a redis-server that speaks TLS as well: where it does. `asks`: whether it wants to see
    /// a certificate of its clients.
    ///
    /// # Errors
    /// If there is no port for it.
    ///
    /// # Panics
    /// If there is no redis-server, or it does not start.
    pub async fn start_redis(&self, asks: bool) -> Result<(RedisServer, SocketAddr)> {
        let address = free_address().await?;
        let options = self.options(address, asks)?;
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Ok((RedisServer::start_with(&options).await, address))
    }

    /// Starts a sentinel that speaks TLS as well, and to its master: where it does.
    ///
    /// # Errors
    /// As [`Certificates::start_redis`].
    ///
    /// # Panics
    /// As [`Certificates::start_redis`].
    pub async fn start_sentinel(&self, master: SocketAddr) -> Result<(RedisServer, SocketAddr)> {
        let address = free_address().await?;
        let options = self.options(address, false)?;
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Ok((RedisServer::start_sentinel(master, &options).await, address))
    }

    fn options(&self, address: SocketAddr, asks: bool) -> Result<Vec<String>> {
        let port = address.port().to_string();
        let file =
            |path: PathBuf| path.into_os_string().into_string().ok().context("an odd folder");
        let (ca, certificate, key) =
            (file(self.ca())?, file(self.certificate())?, file(self.key())?);
        let asks = if asks { "yes" } else { "no" };
        let options = [
            ("tls-port", port.as_str()),
            ("tls-ca-cert-file", &ca),
            ("tls-cert-file", &certificate),
            ("tls-key-file", &key),
            ("tls-auth-clients", asks),
            ("tls-replication", "yes"),
        ];
        let options = options.map(|(option, value)| [format!("--{option}"), value.to_owned()]);
        Ok(options.into_iter().flatten().collect())
    }
}
