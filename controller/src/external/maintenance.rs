//! Keeps the trust between the API server and the external metrics API: makes and renews the
//! certificate, enters its authority in the `APIService`, and follows the API server's authority.
//!
//! All controllers do so, because each serves the API. They share one certificate in a secret; of two
//! simultaneous writes the API server refuses one. A new certificate has a new authority. The
//! authority before it stays in the `APIService`, because other controllers present their previous
//! certificate for up to a minute.
//!
//! When the namespace is deleted, they delete the `APIService`. It belongs to the whole cluster, so it
//! would outlive the namespace, and Kubernetes finishes the deletion of no namespace while an
//! `APIService` has no server behind it.

use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Namespace, Secret},
    jiff::{SignedDuration, Timestamp},
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{WatchStreamExt, watcher},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use tokio::{select, time::sleep};
use tracing::{debug, info, warn};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    error::{API, AUTHENTICATION, MaintenanceError, SYSTEM},
    trust::Trust,
};
use crate::certificates::{Authority, CA, CERTIFICATE, KEY, Party, bytes, secret, text};

/// Validity of a certificate.
const DAYS: i64 = 90;
/// A certificate that ends sooner than this is replaced.
const RENEW: SignedDuration = SignedDuration::from_hours(24 * 30);
const PERIOD: Duration = Duration::from_mins(1);
const RETRY: Duration = Duration::from_secs(5);
/// Shorter, because the deletion of the namespace soon takes the rights of the controller as well.
const RETRY_DELETION: Duration = Duration::from_millis(200);

/// Keeps the trust of one controller.
pub(crate) struct Maintenance {
    trust: Arc<Trust>,
    secrets: Api<Secret>,
    apis: Api<APIService>,
    namespaces: Api<Namespace>,
    system: Api<ConfigMap>,
    namespace: String,
    /// Name of the Service, and of the secret with its certificate.
    service: String,
}

impl Maintenance {
    pub(super) fn new(trust: Arc<Trust>, client: &Client, namespace: &str, service: &str) -> Self {
        Self {
            trust,
            secrets: Api::namespaced(client.clone(), namespace),
            apis: Api::all(client.clone()),
            namespaces: Api::all(client.clone()),
            system: Api::namespaced(client.clone(), SYSTEM),
            namespace: namespace.to_owned(),
            service: service.to_owned(),
        }
    }

    /// Keeps the trust until the namespace is deleted, and then deletes the `APIService`. Never
    /// returns.
    pub(crate) async fn run(self) {
        select! {
            () = self.keep() => {}
            () = self.namespace_deleted() => {}
        }
        while let Err(error) = self.delete_api().await {
            warn!(%error, name = API, "failed to delete the APIService of a deleted namespace");
            sleep(RETRY_DELETION).await;
        }
        pending::<()>().await;
    }

    async fn keep(&self) {
        loop {
            match self.step().await {
                Ok(()) => sleep(PERIOD).await,
                Err(error) => {
                    warn!(%error, "failed to maintain the certificates of the external metrics API");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Returns once the deletion of the namespace has begun.
    async fn namespace_deleted(&self) {
        let changes = watcher::watch_object(self.namespaces.clone(), &self.namespace);
        let mut changes = pin!(changes.default_backoff());
        loop {
            match changes.next().await {
                Some(Ok(Some(namespace))) if namespace.metadata.deletion_timestamp.is_some() => {
                    return;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => debug!(%error, "failed to watch the namespace"),
                None => return pending().await,
            }
        }
    }

    /// Deletes the `APIService`, unless it belongs to another provider.
    async fn delete_api(&self) -> Result<(), MaintenanceError> {
        let Some(api) = self.apis.get_opt(API).await? else { return Ok(()) };
        if self.check_provider(&api).is_err() {
            return Ok(());
        }
        let same = Preconditions { uid: api.uid(), resource_version: None };
        let params = DeleteParams::default().preconditions(same);
        match self.apis.delete(API, &params).await {
            Err(kube::Error::Api(refusal)) if matches!(refusal.code, 404 | 409) => {}
            deleted => drop(deleted?),
        }
        info!(name = API, "deleted the APIService, because its namespace is being deleted");
        Ok(())
    }

    /// Returns an error if the `APIService` belongs to another provider.
    fn check_provider(&self, api: &APIService) -> Result<(), MaintenanceError> {
        let service = api.spec.as_ref().and_then(|spec| spec.service.clone()).unwrap_or_default();
        let provider = [service.namespace, service.name].map(Option::unwrap_or_default);
        if provider == [self.namespace.clone(), self.service.clone()] {
            return Ok(());
        }
        Err(MaintenanceError::OtherProvider(provider.join("/")))
    }

    /// Brings the trust up to date.
    pub(super) async fn step(&self) -> Result<(), MaintenanceError> {
        self.follow_clients().await?;
        let secret = self.certificate().await?;
        let field = |key| text(&secret, key).unwrap_or_default();
        self.trust.present(field(CERTIFICATE), field(KEY))?;
        self.enter_authority(field(CA)).await
    }

    /// Accepts the client certificates of the API server.
    async fn follow_clients(&self) -> Result<(), MaintenanceError> {
        let published = self.system.get(AUTHENTICATION).await?.data.unwrap_or_default();
        let authority = "requestheader-client-ca-file";
        let authorities =
            published.get(authority).ok_or(MaintenanceError::NoAuthority(authority))?;
        let allowed = "requestheader-allowed-names";
        let names = published.get(allowed).map_or("[]", String::as_str);
        let names =
            serde_json::from_str(names).map_err(|_| MaintenanceError::NoAuthority(allowed))?;
        self.trust.accept(authorities, names)
    }

    /// Returns the secret with the certificate, which is made or renewed if it must be.
    async fn certificate(&self) -> Result<Secret, MaintenanceError> {
        let existing = self.secrets.get_opt(&self.service).await?;
        if let Some(current) = existing.as_ref().filter(|secret| is_current(secret)) {
            return Ok(current.clone());
        }
        let host = format!("{}.{}.svc", self.service, self.namespace);
        let authority = Authority::new(&self.service, DAYS)?;
        let mut issued = authority.sign(&host, vec![host.clone()], Party::Server)?;
        let previous = existing.as_ref().and_then(|secret| text(secret, CA)).unwrap_or_default();
        issued.ca += first_certificate(previous);
        let params = PostParams::default();
        let written = match existing {
            None => {
                let made = secret(&self.service, "kubernetes.io/tls", &issued.data());
                self.secrets.create(&params, &made).await
            }
            Some(mut secret) => {
                secret.data = Some(bytes(&issued.data()));
                self.secrets.replace(&self.service, &params, &secret).await
            }
        };
        match written {
            Ok(secret) => {
                info!(secret = self.service, days = DAYS, "certificate made");
                Ok(secret)
            }
            // Another controller was faster.
            Err(kube::Error::Api(refusal)) if refusal.code == 409 => {
                Ok(self.secrets.get(&self.service).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Enters the authority in the `APIService`, unless that belongs to another provider.
    async fn enter_authority(&self, authority: &str) -> Result<(), MaintenanceError> {
        let api = self.apis.get(API).await?;
        self.check_provider(&api)?;
        let spec = api.spec.unwrap_or_default();
        let bundle = ByteString(authority.as_bytes().to_vec());
        if spec.ca_bundle.as_ref() == Some(&bundle) {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"spec": {"caBundle": bundle}}));
        self.apis.patch(API, &PatchParams::default(), &patch).await?;
        info!(name = API, "authority entered in the APIService");
        Ok(())
    }
}

/// Returns whether the certificate in a secret is valid for long enough.
fn is_current(secret: &Secret) -> bool {
    let certificate = text(secret, CERTIFICATE).unwrap_or_default();
    let Ok(certificate) = CertificateDer::from_pem_slice(certificate.as_bytes()) else {
        return false;
    };
    let Ok((_, certificate)) = X509Certificate::from_der(&certificate) else { return false };
    let end = certificate.validity().not_after.timestamp();
    text(secret, KEY).is_some() && end > (Timestamp::now() + RENEW).as_second()
}

/// Returns the first certificate of a PEM file; the authority of the certificate in use.
fn first_certificate(pem: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    pem.find(END).map_or("", |at| &pem[..at + END.len()])
}
