//! Makes the secrets of the chart's Redis before the programs start: a password and URL for each
//! user, and the certificates for TLS. Each is made once; later runs keep passwords and certificates,
//! so that a chart can be rendered without random values.

use std::num::NonZeroUsize;

use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, api::PostParams};
use thiserror::Error;
use tracing::info;

use crate::certificates::{Authority, CERTIFICATE, Party, bytes, secret, text};

const PASSWORD: &str = "password";
const URL: &str = "url";
/// The user of workers.
const WORKER: &str = "worker";
/// The certificates are valid for so many Redises, so that one can be added without new certificates.
const MOST_SHARDS: usize = 16;
/// Validity of the certificates for Redis: Redis reads its certificate only when it starts.
const DAYS: i64 = 3650;

/// Settings of the command `secrets`.
#[derive(Args, Clone, Debug)]
pub struct SecretsSettings {
    /// Name of Redis' Service, with which the names of the secrets begin
    #[arg(long = "redis", value_name = "NAME")]
    pub service: String,

    /// Namespace of the secrets
    #[arg(long = "namespace", value_name = "NAME")]
    pub namespace: String,

    /// User of Redis for whom a secret `<redis>-user-<user>` is made, with `password` and `url`;
    /// repeatable
    #[arg(long = "user", value_name = "NAME")]
    pub users: Vec<String>,

    /// Number of Redises, each with a URL in the secrets: the first behind the Service, the others
    /// behind `<redis>-1` and so on
    #[arg(long, default_value = "1", value_name = "NUMBER")]
    pub shards: NonZeroUsize,

    /// How many of the last Redises are missing in the secret of workers, because workers leave them
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub leaving: usize,

    /// Whether URLs are those of a Redis with TLS
    #[arg(long)]
    pub tls: bool,

    /// Makes `<redis>-tls` and `<redis>-client-tls`, with an authority of their own
    #[arg(long)]
    pub certificates: bool,
}

/// Why a secret could not be made.
#[derive(Debug, Error)]
pub enum SecretsError {
    /// The API server refused a request or could not be reached.
    #[error("secret {name}: the API server: {source}")]
    Kubernetes {
        /// The secret.
        name: String,
        /// The cause.
        source: kube::Error,
    },
    /// An existing secret is not one that this command has made.
    #[error("secret {0} exists without the key `password`: delete the secret, or add the key")]
    NoPassword(String),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// Makes the secrets that do not exist.
///
/// # Errors
/// If a secret can be neither read nor written.
pub async fn make_secrets(settings: &SecretsSettings) -> anyhow::Result<()> {
    let client = Client::try_default().await?;
    Ok(make(client, settings).await?)
}

async fn make(client: Client, settings: &SecretsSettings) -> Result<(), SecretsError> {
    let secrets = Secrets(Api::namespaced(client, &settings.namespace));
    for user in &settings.users {
        secrets.make_user(settings, user).await?;
    }
    if settings.certificates {
        secrets.make_certificates(settings).await?;
    }
    Ok(())
}

struct Secrets(Api<Secret>);

impl Secrets {
    async fn make_user(&self, settings: &SecretsSettings, user: &str) -> Result<(), SecretsError> {
        let name = format!("{}-user-{user}", settings.service);
        let Some(mut existing) = self.get(&name).await? else {
            let password = format!("{:032x}", rand::random::<u128>());
            let url = url(settings, user, &password);
            return self
                .create(secret(&name, "Opaque", &[(PASSWORD, &password), (URL, &url)]))
                .await;
        };
        let Some(password) = text(&existing, PASSWORD) else {
            return Err(SecretsError::NoPassword(name));
        };
        // The URL follows the chart: TLS may have been switched on or off.
        let url = url(settings, user, password);
        if text(&existing, URL) == Some(&url) {
            info!(name, "secret kept");
            return Ok(());
        }
        existing.data.get_or_insert_default().extend(bytes(&[(URL, &url)]));
        self.replace(existing).await
    }

    /// Makes both secrets with certificates unless both exist, because one authority signs both.
    async fn make_certificates(&self, settings: &SecretsSettings) -> Result<(), SecretsError> {
        let service = &settings.service;
        let names = [format!("{service}-tls"), format!("{service}-client-tls")];
        let existing = [self.get(&names[0]).await?, self.get(&names[1]).await?];
        let is_complete =
            |it: &Option<Secret>| it.as_ref().is_some_and(|it| text(it, CERTIFICATE).is_some());
        if existing.iter().all(is_complete) {
            info!(name = names[0], "certificates kept");
            return Ok(());
        }
        let authority = Authority::new(service, DAYS)?;
        let namespace = &settings.namespace;
        let hosts = (0..MOST_SHARDS).flat_map(|shard| {
            let host = host(service, shard);
            [host.clone(), format!("{host}.{namespace}"), format!("{host}.{namespace}.svc")]
        });
        let issued = [
            authority.sign(service, hosts.collect(), Party::Server)?,
            authority.sign(&names[1], Vec::new(), Party::Client)?,
        ];
        for ((name, issued), existing) in names.iter().zip(issued).zip(existing) {
            match existing {
                None => self.create(secret(name, "kubernetes.io/tls", &issued.data())).await?,
                Some(mut existing) => {
                    existing.data = Some(bytes(&issued.data()));
                    self.replace(existing).await?;
                }
            }
        }
        Ok(())
    }

    async fn get(&self, name: &str) -> Result<Option<Secret>, SecretsError> {
        self.0.get_opt(name).await.map_err(failed(name))
    }

    async fn create(&self, secret: Secret) -> Result<(), SecretsError> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        self.0.create(&PostParams::default(), &secret).await.map_err(failed(&name))?;
        info!(name, "secret made");
        Ok(())
    }

    async fn replace(&self, secret: Secret) -> Result<(), SecretsError> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        self.0.replace(&name, &PostParams::default(), &secret).await.map_err(failed(&name))?;
        info!(name, "secret changed");
        Ok(())
    }
}

fn failed(name: &str) -> impl FnOnce(kube::Error) -> SecretsError {
    let name = name.to_owned();
    |source| SecretsError::Kubernetes { name, source }
}

/// The Service of one of the Redises.
fn host(service: &str, shard: usize) -> String {
    if shard == 0 { service.to_owned() } else { format!("{service}-{shard}") }
}

/// The URL of each Redis that the user uses, one a line.
fn url(settings: &SecretsSettings, user: &str, password: &str) -> String {
    let SecretsSettings { service, shards, leaving, tls, .. } = settings;
    let scheme = if *tls { "rediss" } else { "redis" };
    let shards =
        if user == WORKER { shards.get().saturating_sub(*leaving).max(1) } else { shards.get() };
    let url = |shard| format!("{scheme}://{user}:{password}@{}:6379/0", host(service, shard));
    (0..shards).map(url).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::api::{DeleteParams, ListParams};
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    use x509_parser::{certificate::X509Certificate, prelude::FromDer};

    use super::*;
    use crate::fake::FakeApi;

    fn settings(tls: bool) -> SecretsSettings {
        SecretsSettings {
            service: "redis".to_owned(),
            namespace: "ml".to_owned(),
            users: vec!["gateway".to_owned(), "worker".to_owned()],
            shards: NonZeroUsize::MIN,
            leaving: 0,
            tls,
            certificates: tls,
        }
    }

    async fn stored(server: &FakeApi) -> BTreeMap<String, Secret> {
        let secrets: Api<Secret> = Api::namespaced(server.client(), "ml");
        let list = secrets.list(&ListParams::default()).await.unwrap();
        list.items.into_iter().map(|it| (it.metadata.name.clone().unwrap(), it)).collect()
    }

    #[tokio::test]
    async fn each_user_gets_a_password_once_and_keeps_it() {
        let server = FakeApi::default();
        make(server.client(), &settings(false)).await.unwrap();
        let first = stored(&server).await;
        let passwords: Vec<_> = ["gateway", "worker"]
            .map(|user| text(&first[&format!("redis-user-{user}")], PASSWORD).unwrap())
            .into();
        assert!(passwords.iter().all(|password| password.len() == 32));
        assert_ne!(passwords[0], passwords[1]);
        let url = text(&first["redis-user-worker"], URL).unwrap();
        assert_eq!(url, format!("redis://worker:{}@redis:6379/0", passwords[1]));
        server.writes();
        make(server.client(), &settings(false)).await.unwrap();
        assert!(server.writes().is_empty());
    }

    #[tokio::test]
    async fn the_url_follows_tls_and_the_password_stays() {
        let server = FakeApi::default();
        make(server.client(), &settings(false)).await.unwrap();
        let before = stored(&server).await["redis-user-worker"].clone();
        make(server.client(), &settings(true)).await.unwrap();
        let after = stored(&server).await["redis-user-worker"].clone();
        assert_eq!(text(&before, PASSWORD), text(&after, PASSWORD));
        assert!(text(&after, URL).unwrap().starts_with("rediss://worker:"));
    }

    #[tokio::test]
    async fn there_is_a_url_for_each_redis_but_workers_leave_the_last() {
        let server = FakeApi::default();
        let three = NonZeroUsize::new(3).unwrap();
        let settings = SecretsSettings { shards: three, leaving: 1, ..settings(false) };
        make(server.client(), &settings).await.unwrap();
        let stored = stored(&server).await;
        let hosts = |user: &str| -> Vec<String> {
            let urls = text(&stored[&format!("redis-user-{user}")], URL).unwrap();
            let hosts = urls.lines().map(|url| url.rsplit_once('@').unwrap().1.to_owned());
            hosts.collect()
        };
        assert_eq!(hosts("gateway"), ["redis:6379/0", "redis-1:6379/0", "redis-2:6379/0"]);
        assert_eq!(hosts("worker"), ["redis:6379/0", "redis-1:6379/0"]);
    }

    #[tokio::test]
    async fn one_authority_signs_both_certificates_and_a_lost_secret_renews_both() {
        let server = FakeApi::default();
        make(server.client(), &settings(true)).await.unwrap();
        let first = stored(&server).await;
        let authority = |of: &Secret| text(of, "ca.crt").unwrap().to_owned();
        assert_eq!(authority(&first["redis-tls"]), authority(&first["redis-client-tls"]));
        server.writes();
        make(server.client(), &settings(true)).await.unwrap();
        assert!(server.writes().is_empty());
        let secrets: Api<Secret> = Api::namespaced(server.client(), "ml");
        secrets.delete("redis-tls", &DeleteParams::default()).await.unwrap();
        make(server.client(), &settings(true)).await.unwrap();
        let renewed = stored(&server).await;
        assert_eq!(authority(&renewed["redis-tls"]), authority(&renewed["redis-client-tls"]));
        assert_ne!(authority(&renewed["redis-tls"]), authority(&first["redis-tls"]));
    }

    #[tokio::test]
    async fn the_certificates_are_valid_for_ten_years_from_today() {
        let server = FakeApi::default();
        make(server.client(), &settings(true)).await.unwrap();
        for secret in ["redis-tls", "redis-client-tls"] {
            let stored = stored(&server).await;
            for key in ["ca.crt", CERTIFICATE] {
                let pem = text(&stored[secret], key).unwrap();
                let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
                let (_, certificate) = X509Certificate::from_der(&der).unwrap();
                let left = certificate.validity().time_to_expiration().unwrap().whole_days();
                assert!((DAYS..=DAYS + 1).contains(&left), "{secret} {key}: {left} days");
            }
        }
    }

    #[tokio::test]
    async fn a_secret_of_another_maker_is_not_overwritten() {
        let server = FakeApi::default();
        let secrets: Api<Secret> = Api::namespaced(server.client(), "ml");
        let other = secret("redis-user-gateway", "Opaque", &[("key", "value")]);
        secrets.create(&PostParams::default(), &other).await.unwrap();
        let refused = make(server.client(), &settings(false)).await.unwrap_err().to_string();
        assert!(refused.contains("redis-user-gateway exists without the key"), "{refused}");
    }
}
