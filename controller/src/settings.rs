//! Settings of the controller, as flags and environment variables.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf};

use batchfleet_broker::redis::{RedisAddress, RedisBroker};
use batchfleet_service::{
    InvalidSettings, OutageSettings, ProcessSettings, RedisSettings, settings::listen_address,
};
use clap::{Args, Parser, Subcommand};
use kube::Client;

use crate::{
    model_users::ModelUsers,
    objects::{RedisTls, WorkerDefaults, WorkerRedis},
    secrets::SecretsSettings,
};

/// Settings of the controller process.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "batchfleet-controller",
    version,
    about = "Scales the fleet of each ModelFleet to its load, and publishes its batch target"
)]
pub struct ControllerSettings {
    /// A command to run instead of the controller.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The connection to Redis.
    #[command(flatten)]
    pub redis: RedisSettings,

    /// When an outage of Redis makes the controller not ready.
    #[command(flatten)]
    pub outage: OutageSettings,

    /// Image of the workers of fleets that do not set `worker.image`
    #[arg(
        long,
        env = "BATCHFLEET_WORKER_IMAGE",
        default_value = "batchfleet-worker",
        value_name = "IMAGE"
    )]
    pub worker_image: String,

    /// Secret that holds the URL of Redis for workers [default: none, workers get the value of
    /// --redis-url]
    #[arg(long, env = "BATCHFLEET_WORKER_REDIS_SECRET", value_name = "NAME")]
    pub worker_redis_secret: Option<String>,

    /// Key of the URL in the secret of --worker-redis-secret
    #[arg(
        long,
        env = "BATCHFLEET_WORKER_REDIS_SECRET_KEY",
        default_value = "url",
        value_name = "KEY"
    )]
    pub worker_redis_secret_key: String,

    /// Secret that holds for workers the files of --redis-ca, --redis-cert and --redis-key, under
    /// the keys `ca.crt`, `tls.crt` and `tls.key`
    #[arg(long, env = "BATCHFLEET_WORKER_REDIS_TLS_SECRET", value_name = "NAME")]
    pub worker_redis_tls_secret: Option<String>,

    /// Number of Redises whose URLs workers read. Replaces the workers when it changes, because they
    /// count the URLs when they start
    #[arg(long, env = "BATCHFLEET_WORKER_REDISES", value_name = "NUMBER")]
    pub worker_redises: Option<NonZeroUsize>,

    /// Number of workers for which a queue uses one more of several Redises [default: that of workers]
    #[arg(long, env = "BATCHFLEET_WORKERS_PER_SHARD", value_name = "NUMBER")]
    pub workers_per_shard: Option<NonZeroUsize>,

    /// Secret that the controller fills with a Redis user for each model, whose rights cover this
    /// model only. The workers of the model use it. Workers that run already keep the shared user
    /// until the user of their model exists [default: none, all workers share one user]
    #[arg(
        long,
        env = "BATCHFLEET_MODEL_USERS_SECRET",
        requires = "redis_admin_url_file",
        value_name = "NAME"
    )]
    pub model_users_secret: Option<String>,

    /// A file that contains only the URL of Redis with a user who may call `ACL SETUSER`, `ACL
    /// DELUSER` and `ACL USERS`
    #[arg(
        long,
        env = "BATCHFLEET_REDIS_ADMIN_URL_FILE",
        requires = "model_users_secret",
        value_name = "FILE"
    )]
    pub redis_admin_url_file: Option<PathBuf>,

    /// User and group ID of workers, or `none` where the cluster assigns them (`OpenShift`)
    #[arg(
        long,
        env = "BATCHFLEET_WORKER_USER",
        default_value = "65532",
        value_name = "ID",
        value_parser = user
    )]
    pub worker_user: WorkerUser,

    /// Label of each fleet's `PodMonitor`, by which a Prometheus operator selects it; repeatable
    #[arg(
        long = "pod-monitor-label",
        env = "BATCHFLEET_POD_MONITOR_LABEL",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        value_parser = label
    )]
    pub pod_monitor_labels: Vec<(String, String)>,

    /// Scrape interval of each fleet's `PodMonitor`, such as 15s [default: the interval of
    /// Prometheus]
    #[arg(long, env = "BATCHFLEET_POD_MONITOR_INTERVAL", value_name = "DURATION")]
    pub pod_monitor_interval: Option<String>,

    /// Namespace whose fleets are controlled [default: the controller's own]
    #[arg(long, env = "BATCHFLEET_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,

    /// Name of this process in the leader election
    #[arg(long, env = "HOSTNAME", default_value = "controller", value_name = "NAME")]
    pub identity: String,

    /// The external metrics API for autoscalers.
    #[command(flatten)]
    pub external_metrics: ExternalMetricsSettings,

    /// Settings of every process.
    #[command(flatten)]
    pub process: ProcessSettings,
}

/// Whether and how `external.metrics.k8s.io` is served.
#[derive(Args, Clone, Debug, Default)]
pub struct ExternalMetricsSettings {
    /// Address on which queue depths are served to autoscalers over HTTPS, as
    /// `external.metrics.k8s.io`; port 0 takes any free port [default: not served]
    #[arg(
        long = "external-metrics-listen",
        env = "BATCHFLEET_EXTERNAL_METRICS_LISTEN",
        value_name = "ADDR",
        value_parser = listen_address
    )]
    pub listen: Option<SocketAddr>,

    /// Certificate chain of --external-metrics-listen, as PEM [default: a self-signed certificate
    /// made at start]
    #[arg(
        long = "external-metrics-certificate",
        env = "BATCHFLEET_EXTERNAL_METRICS_CERTIFICATE",
        requires = "key",
        value_name = "FILE"
    )]
    pub certificate: Option<PathBuf>,

    /// Key of --external-metrics-certificate, as PEM
    #[arg(
        long = "external-metrics-key",
        env = "BATCHFLEET_EXTERNAL_METRICS_KEY",
        requires = "certificate",
        value_name = "FILE"
    )]
    pub key: Option<PathBuf>,

    /// Service of --external-metrics-listen. The controller then makes and renews the certificate, in
    /// a secret of the same name, enters its authority in the `APIService`, and accepts connections
    /// only from the API server
    #[arg(
        long = "external-metrics-service",
        env = "BATCHFLEET_EXTERNAL_METRICS_SERVICE",
        conflicts_with = "certificate",
        value_name = "NAME"
    )]
    pub service: Option<String>,
}

/// The user and group ID of workers' pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerUser(Option<i64>);

/// Commands beside the controller itself.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Print the custom resource definition of `ModelFleet`
    Crd,
    /// Make the secrets of the chart's Redis, each once, before the programs start
    Secrets(SecretsSettings),
}

impl ControllerSettings {
    /// Returns the settings shared by the workers of all fleets.
    ///
    /// # Errors
    /// If a password would be readable in every worker's pod, or if workers would lack
    /// certificates.
    pub fn workers(&self) -> Result<WorkerDefaults, InvalidSettings> {
        let redis = match &self.worker_redis_secret {
            Some(name) => WorkerRedis::Secret {
                name: name.clone(),
                key: self.worker_redis_secret_key.clone(),
            },
            None => match self.redis.urls()? {
                url if url.contains('@') || url.contains("sentinel_password") => {
                    return Err(InvalidSettings::new(
                        "the URL of Redis contains a password, which would be readable in every \
                         worker's pod: set --worker-redis-secret to a secret that holds the URL",
                    ));
                }
                url => WorkerRedis::Url(url),
            },
        };
        let (ca, identity) = (self.redis.redis_ca.is_some(), self.redis.redis_cert.is_some());
        let redis_tls = match &self.worker_redis_tls_secret {
            None if ca || identity => {
                return Err(InvalidSettings::new(
                    "workers need the certificates for Redis as well: set --worker-redis-tls-secret \
                     to a secret that holds them",
                ));
            }
            secret => secret.clone().map(|secret| RedisTls { secret, ca, identity }),
        };
        let monitor_labels = self.pod_monitor_labels.iter().cloned().collect();
        let trace_endpoint = self.process.trace.trace_endpoint.as_ref().map(ToString::to_string);
        let image = self.worker_image.clone();
        let monitor_interval = self.pod_monitor_interval.clone();
        Ok(WorkerDefaults {
            image,
            redis,
            redis_tls,
            redises: self.worker_redises,
            workers_per_shard: self.workers_per_shard,
            user: self.worker_user.0,
            trace_endpoint,
            monitor_labels,
            monitor_interval,
        })
    }
}

impl ControllerSettings {
    /// Returns the keeper of the Redis users of models, if they are wanted.
    ///
    /// # Errors
    /// If a file cannot be read, or an address is invalid.
    pub(crate) fn model_users(
        &self,
        client: &Client,
        namespace: &str,
    ) -> Result<Option<ModelUsers>, InvalidSettings> {
        let Some(secret) = &self.model_users_secret else { return Ok(None) };
        let address = self.redis.address()?;
        let url_file = self.redis_admin_url_file.clone();
        let admin = RedisAddress { url_file, ..address.clone() };
        RedisBroker::check(&admin).map_err(|error| {
            InvalidSettings::new(format_args!("--redis-admin-url-file: {error}"))
        })?;
        Ok(Some(ModelUsers::new(client, namespace, secret, address, admin)))
    }
}

fn user(text: &str) -> Result<WorkerUser, String> {
    match text.parse() {
        _ if text == "none" => Ok(WorkerUser(None)),
        Ok(id) if id > 0 => Ok(WorkerUser(Some(id))),
        _ => Err("expected a positive number or `none`".to_owned()),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(flags: &[&str]) -> Result<WorkerDefaults, InvalidSettings> {
        let flags = ["batchfleet-controller"].iter().chain(flags);
        ControllerSettings::try_parse_from(flags).unwrap().workers()
    }

    #[test]
    fn workers_get_the_controllers_url_of_redis() {
        let address = workers(&["--redis-url", "redis://redis:6379/1"]).unwrap().redis;
        assert!(matches!(address, WorkerRedis::Url(url) if url == "redis://redis:6379/1"));
    }

    #[test]
    fn pod_monitors_get_the_labels_of_the_settings() {
        let labels = workers(&["--pod-monitor-label", "a=b,c=d"]).unwrap().monitor_labels;
        assert_eq!(labels.get("c").map(String::as_str), Some("d"));
        let wrong = ["batchfleet-controller", "--pod-monitor-label", "a"];
        assert!(ControllerSettings::try_parse_from(wrong).is_err());
    }

    #[test]
    fn a_password_is_never_written_into_a_pod() {
        let url = ["--redis-url", "redis://worker:secret@redis:6379/0"];
        let refused = workers(&url).unwrap_err().to_string();
        assert!(refused.contains("--worker-redis-secret") && !refused.contains("worker:secret"));
        let sentinels = ["--redis-url", "redis+sentinel://redis/main?sentinel_password=secret"];
        assert!(workers(&sentinels).unwrap_err().to_string().contains("--worker-redis-secret"));
        let named = [url.as_slice(), &["--worker-redis-secret", "redis"]].concat();
        let address = workers(&named).unwrap().redis;
        let expected = WorkerRedis::Secret { name: "redis".to_owned(), key: "url".to_owned() };
        assert_eq!(address, expected);
    }

    #[test]
    fn the_cluster_may_assign_the_user_of_workers() {
        assert_eq!(workers(&[]).unwrap().user, Some(65_532));
        assert_eq!(workers(&["--worker-user", "none"]).unwrap().user, None);
        let root = ["batchfleet-controller", "--worker-user", "0"];
        assert!(ControllerSettings::try_parse_from(root).is_err());
    }

    #[test]
    fn certificates_for_the_controller_require_certificates_for_workers() {
        let ca = ["--redis-url", "rediss://redis", "--redis-ca", "/ca.crt"];
        let refused = workers(&ca).unwrap_err().to_string();
        assert!(refused.contains("--worker-redis-tls-secret"), "{refused}");
        let named = [ca.as_slice(), &["--worker-redis-tls-secret", "tls"]].concat();
        let expected = RedisTls { secret: "tls".to_owned(), ca: true, identity: false };
        assert_eq!(workers(&named).unwrap().redis_tls, Some(expected));
    }
}
