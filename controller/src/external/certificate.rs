//! The certificate of the external metrics API: from the settings, or created at start.

use std::{path::Path, sync::Arc};

use batchfleet_service::InvalidSettings;
use rcgen::CertifiedKey;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem, pem::PemObject},
};

use super::trust::Trust;
use crate::settings::ExternalMetricsSettings;

/// A certificate chain that starts with the server's certificate, and the server's private key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Builds the TLS configuration from the settings.
pub(super) fn settings(
    settings: &ExternalMetricsSettings,
) -> Result<ServerConfig, InvalidSettings> {
    let files = settings.certificate.as_deref().zip(settings.key.as_deref());
    let (certificates, key) = match files {
        Some((certificate, key)) => given(certificate, key)?,
        None => made().map_err(|error| InvalidSettings::new(format_args!("TLS: {error}")))?,
    };
    ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .and_then(|tls| tls.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(|error| {
            InvalidSettings::new(format_args!("--external-metrics-certificate: {error}"))
        })
}

/// Builds the TLS configuration for certificates that change while the API serves. Clients need a
/// certificate.
pub(super) fn maintained(trust: Arc<Trust>) -> Result<ServerConfig, InvalidSettings> {
    let builder = ServerConfig::builder_with_provider(trust.provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| InvalidSettings::new(format_args!("TLS: {error}")))?;
    Ok(builder.with_client_cert_verifier(trust.clone()).with_cert_resolver(trust))
}

fn given(certificate: &Path, key: &Path) -> Result<Identity, InvalidSettings> {
    let wrong = |flag: &str, path: &Path, error: pem::Error| {
        InvalidSettings::new(format_args!("--{flag} {}: {error}", path.display()))
    };
    let certificates = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong("external-metrics-certificate", certificate, error))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| wrong("external-metrics-key", key, error))?;
    Ok((certificates, key))
}

/// Creates a self-signed certificate. Clients must skip its verification.
fn made() -> Result<Identity, rcgen::Error> {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["batchfleet-controller".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    Ok((vec![cert.der().clone()], key.into()))
}
