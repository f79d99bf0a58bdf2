//! The certificate that the external metrics API presents, and the clients that it accepts. Both may
//! change while it serves.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        ClientHello, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::error::MaintenanceError;

/// What the API presents and accepts. Until both are set, it refuses every connection.
#[derive(Debug)]
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    certificate: RwLock<Option<Arc<CertifiedKey>>>,
    clients: RwLock<Option<Arc<AcceptedClients>>>,
}

/// The clients that the API accepts: those with a certificate of an authority and, unless the list is
/// empty, one of these common names.
#[derive(Debug)]
struct AcceptedClients {
    authority: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl Trust {
    pub(super) fn new() -> Self {
        let provider = Arc::new(ring::default_provider());
        Self { provider, certificate: RwLock::default(), clients: RwLock::default() }
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        self.provider.clone()
    }

    /// Presents this certificate to new connections.
    pub(super) fn present(&self, certificate: &str, key: &str) -> Result<(), MaintenanceError> {
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let certified = CertifiedKey::from_der(chain, key, &self.provider)?;
        *self.certificate.write() = Some(Arc::new(certified));
        Ok(())
    }

    /// Accepts new connections of clients with a certificate of `authorities` and one of `names`.
    pub(super) fn accept(
        &self,
        authorities: &str,
        names: Vec<String>,
    ) -> Result<(), MaintenanceError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(authorities)? {
            roots.add(authority)?;
        }
        let authority =
            WebPkiClientVerifier::builder_with_provider(roots.into(), self.provider.clone())
                .build()?;
        *self.clients.write() = Some(Arc::new(AcceptedClients { authority, names }));
        Ok(())
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, MaintenanceError> {
    Ok(CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?)
}

/// Returns whether the common name of a certificate is one of `names`.
fn has_name(certificate: &[u8], names: &[String]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let mut common = certificate.subject().iter_common_name();
    common.any(|name| name.as_str().is_ok_and(|name| names.iter().any(|allowed| allowed == name)))
}

impl ResolvesServerCert for Trust {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificate.read().clone()
    }
}

impl ClientCertVerifier for Trust {
    // Without hints a client presents whichever certificate it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let clients = self.clients.read().clone();
        let clients = clients.ok_or(CertificateError::UnknownIssuer)?;
        let verified = clients.authority.verify_client_cert(end_entity, intermediates, now)?;
        if clients.names.is_empty() || has_name(end_entity, &clients.names) {
            return Ok(verified);
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
