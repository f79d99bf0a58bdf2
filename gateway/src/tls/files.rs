//! The TLS files: certificate, key and authorities of clients.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use super::{certificate, certificate::Validity};

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const CLIENT_CA: &str = "--tls-client-ca";

/// The reason why a TLS file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {}: {problem}", .path.display())]
pub struct TlsError {
    flag: &'static str,
    path: PathBuf,
    problem: String,
}

/// The paths of the files.
#[derive(Clone, Debug)]
pub(super) struct TlsFiles {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) client_ca: Option<PathBuf>,
}

/// What was read from the files.
pub(super) struct Loaded {
    /// For HTTP.
    pub(super) http: Arc<ServerConfig>,
    /// For gRPC.
    pub(super) grpc: Arc<ServerConfig>,
    pub(super) validity: Validity,
    /// The bytes of the files, by which a change is recognized.
    pub(super) content: [Vec<u8>; 3],
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// A file is missing or malformed, or the key belongs to another certificate.
    pub(super) fn load(&self) -> Result<Loaded, TlsError> {
        let client_ca = self.client_ca.as_deref().map(|path| read(CLIENT_CA, path)).transpose()?;
        let content = [
            read(CERT, &self.certificate)?,
            read(KEY, &self.key)?,
            client_ca.clone().unwrap_or_default(),
        ];
        let chain = certificates(CERT, &self.certificate, &content[0])?;
        let key = PrivateKeyDer::from_pem_slice(&content[1])
            .map_err(|error| wrong(KEY, &self.key, &error))?;
        let authorities = match &self.client_ca {
            Some(path) => certificates(CLIENT_CA, path, &content[2])?,
            None => Vec::new(),
        };
        let validity = Validity {
            server: ends(CERT, &self.certificate, &chain[..1])?,
            client_ca: match &self.client_ca {
                Some(path) => Some(ends(CLIENT_CA, path, &authorities)?),
                None => None,
            },
        };
        let config = self.config(chain, key, authorities)?;
        let speaking = |protocols: &[&str]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            Arc::new(config)
        };
        let (http, grpc) = (speaking(&["h2", "http/1.1"]), speaking(&["h2"]));
        Ok(Loaded { http, grpc, validity, content })
    }

    /// Checks that the certificate of this server has not ended.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(super) fn check_end(&self, loaded: &Loaded) -> Result<(), TlsError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if i64::try_from(now).is_ok_and(|now| now < loaded.validity.server) {
            return Ok(());
        }
        Err(wrong(CERT, &self.certificate, &"the certificate has ended"))
    }

    fn config(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(CERT, &self.certificate, &error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in authorities {
                    roots.add(authority).map_err(|error| wrong(CLIENT_CA, path, &error))?;
                }
                // A client without a certificate gets an HTTP response that says what to present.
                // Health checks present none.
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| wrong(CLIENT_CA, path, &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        builder.with_single_cert(chain, key).map_err(|error| wrong(CERT, &self.certificate, &error))
    }
}

/// When the first of these certificates ends.
fn ends(
    flag: &'static str,
    path: &Path,
    certificates: &[CertificateDer<'_>],
) -> Result<i64, TlsError> {
    let ends = certificates.iter().map(|one| certificate::ends(one));
    let first = ends.collect::<Option<Vec<_>>>().and_then(|ends| ends.into_iter().min());
    first.ok_or_else(|| wrong(flag, path, &"not an X.509 certificate"))
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| wrong(flag, path, &error))
}

fn certificates(
    flag: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(wrong(flag, path, &"the file contains no certificate in PEM format"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(wrong(flag, path, &error)),
    }
}

fn wrong(flag: &'static str, path: &Path, problem: &dyn Display) -> TlsError {
    TlsError { flag, path: path.to_owned(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::{super::settings::TlsSettings, *};

    /// Writes a self-signed certificate and its key.
    fn write(folder: &TempDir) -> TlsSettings {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            Some(path)
        };
        TlsSettings {
            tls_cert: file("cert", certificate.pem()),
            tls_key: file("key", key.serialize_pem()),
            tls_client_ca: file("ca", certificate.pem()),
        }
    }

    fn problem(settings: &TlsSettings) -> String {
        let loaded = settings.files().unwrap().load();
        loaded.map(drop).unwrap_err().to_string()
    }

    #[test]
    fn the_files_of_a_certificate_are_loaded_with_its_end() {
        let folder = TempDir::new().unwrap();
        let loaded = write(&folder).files().unwrap().load().unwrap();
        // rcgen's certificates end in the year 4096.
        assert_eq!(loaded.validity.server, 67_090_118_400);
        assert_eq!(loaded.validity.client_ca, Some(loaded.validity.server));
    }

    #[test]
    fn a_certificate_that_has_ended_is_told_from_a_valid_one() {
        let folder = TempDir::new().unwrap();
        let files = write(&folder).files().unwrap();
        let mut loaded = files.load().unwrap();
        assert!(files.check_end(&loaded).is_ok());
        loaded.validity.server = 1;
        let problem = files.check_end(&loaded).unwrap_err().to_string();
        assert!(problem.starts_with("--tls-cert /") && problem.ends_with("has ended"), "{problem}");
    }

    #[test]
    fn an_unusable_file_is_named_with_its_flag() {
        let (folder, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let settings = write(&folder);
        let wrong_key = TlsSettings { tls_key: write(&other).tls_key, ..settings.clone() };
        assert!(problem(&wrong_key).starts_with("--tls-cert /"), "{}", problem(&wrong_key));
        for (path, flag) in [
            (&settings.tls_client_ca, CLIENT_CA),
            (&settings.tls_key, KEY),
            (&settings.tls_cert, CERT),
        ] {
            fs::write(path.as_ref().unwrap(), "no PEM").unwrap();
            assert!(problem(&settings).starts_with(&format!("{flag} /")), "{}", problem(&settings));
        }
        fs::remove_file(settings.tls_cert.as_ref().unwrap()).unwrap();
        assert!(problem(&settings).contains("No such file"), "{}", problem(&settings));
    }
}
