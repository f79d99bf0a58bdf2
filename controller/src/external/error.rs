//! Why the API server and the external metrics API do not trust each other.

use rustls::pki_types::pem;
use thiserror::Error;

/// The `APIService` of external metrics.
pub(super) const API: &str = "v1beta1.external.metrics.k8s.io";
/// The namespace and the name of the `ConfigMap` in which the API server publishes the authority of
/// its client certificates.
pub(super) const SYSTEM: &str = "kube-system";
pub(super) const AUTHENTICATION: &str = "extension-apiserver-authentication";

/// Why the trust could not be kept.
#[derive(Debug, Error)]
pub(super) enum MaintenanceError {
    #[error("the API server: {0}")]
    Kubernetes(#[from] kube::Error),
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("invalid certificate: {0}")]
    Pem(#[from] pem::Error),
    #[error("invalid certificate: {0}")]
    Tls(#[from] rustls::Error),
    #[error("invalid authority of the API server: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error(
        "the ConfigMap {SYSTEM}/{AUTHENTICATION} has no valid {0}, so the API server forwards no API"
    )]
    NoAuthority(&'static str),
    #[error(
        "the APIService {API} belongs to the service {0}, and a cluster has only one provider of it: set externalMetrics.enabled=false in one of the charts"
    )]
    OtherProvider(String),
}
