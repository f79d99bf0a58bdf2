//! TLS certificates for servers and clients on this machine.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use crate::{RedisServer, redis_server::free_address};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A certificate for `127.0.0.1`, its key, and the authority that signed it, as PEM files.
pub struct Certificates {
    folder: TempDir,
    authority: Mutex<Authority>,
}

impl Certificates {
    /// Generates an authority, a key and a certificate.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn new() -> Result<Self> {
        let certificates = Self { folder: TempDir::new()?, authority: Mutex::new(authority()?) };
        certificates.write_authority()?;
        certificates.renew_certificate()?;
        Ok(certificates)
    }

    /// Replaces the authority, the key and the certificate, in the same files.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn renew(&self) -> Result<()> {
        *self.authority.lock() = authority()?;
        self.write_authority()?;
        self.renew_certificate()
    }

    /// Replaces the key and the certificate by others of the same authority, in the same files.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn renew_certificate(&self) -> Result<()> {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let (certificate, key) = self.sign(&CertificateParams::new(names)?)?;
        fs::write(self.certificate(), certificate)?;
        fs::write(self.key(), key)?;
        Ok(())
    }

    /// Writes the certificate of a client with this common name, and its key. Returns both files.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn client(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        let (certificate, key) = self.sign(&params)?;
        let file = |kind| self.folder.path().join(format!("{name}-{kind}.pem"));
        fs::write(file("certificate"), certificate)?;
        fs::write(file("key"), key)?;
        Ok((file("certificate"), file("key")))
    }

    /// Signs a certificate with a new key. Returns both as PEM.
    fn sign(&self, params: &CertificateParams) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &*self.authority.lock())?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn write_authority(&self) -> Result<()> {
        Ok(fs::write(self.ca(), self.authority.lock().pem())?)
    }

    /// The file of the authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The file of the certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// The file of the certificate's key.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Starts a redis-server with a TLS port beside its plain one. With `require_client` the server
    /// accepts only clients with a certificate. Returns the address of the TLS port.
    ///
    /// # Errors
    /// If no port is free.
    ///
    /// # Panics
    /// If redis-server is not installed, or does not start.
    pub async fn start_redis(&self, require_client: bool) -> Result<(RedisServer, SocketAddr)> {
        let address = free_address().await?;
        let options = self.options(address, require_client)?;
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Ok((RedisServer::start_with(&options).await, address))
    }

    /// Starts a sentinel with a TLS port beside its plain one. The sentinel connects to its master
    /// over TLS. Returns the address of the TLS port.
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

    fn options(&self, address: SocketAddr, require_client: bool) -> Result<Vec<String>> {
        let port = address.port().to_string();
        let file = |path: PathBuf| {
            path.into_os_string().into_string().ok().context("the temporary folder is not UTF-8")
        };
        let (ca, certificate, key) =
            (file(self.ca())?, file(self.certificate())?, file(self.key())?);
        let clients = if require_client { "yes" } else { "no" };
        let options = [
            ("tls-port", port.as_str()),
            ("tls-ca-cert-file", &ca),
            ("tls-cert-file", &certificate),
            ("tls-key-file", &key),
            ("tls-auth-clients", clients),
            ("tls-replication", "yes"),
        ];
        let options = options.map(|(option, value)| [format!("--{option}"), value.to_owned()]);
        Ok(options.into_iter().flatten().collect())
    }
}

fn authority() -> Result<Authority> {
    let mut authority = CertificateParams::new(Vec::new())?;
    // The issuer's name must differ from the subject's: otherwise the certificate looks self-signed.
    authority.distinguished_name.push(DnType::CommonName, "authority of a test");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?)
}
