//! Settings of the controller, as flags and environment variables.

use std::{net::SocketAddr, path::PathBuf};

use batchfleet_service::{InvalidSettings, ProcessSettings, RedisSettings};
use clap::{Args, Parser, Subcommand};

use crate::objects::{RedisAddress, RedisTls, WorkerDefaults};

/// Settings of the controller process.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "batchfleet-controller",
    version,
    about = "Keeps each ModelFleet as large as its load needs, and tells its workers how to batch"
)]
pub struct ControllerSettings {
    /// What to do instead of controlling.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Where Redis is.
    #[command(flatten)]
    pub redis: RedisSettings,

    /// The image of workers whose fleet names none
    #[arg(
        long,
        env = "BATCHFLEET_WORKER_IMAGE",
        default_value = "batchfleet-worker",
        value_name = "IMAGE"
    )]
    pub worker_image: String,

    /// The secret in which workers find the URL of Redis [default: what --redis-url says]
    #[arg(long, env = "BATCHFLEET_WORKER_REDIS_SECRET", value_name = "NAME")]
    pub worker_redis_secret: Option<String>,

    /// The key of that secret
    #[arg(
        long,
        env = "BATCHFLEET_WORKER_REDIS_SECRET_KEY",
        default_value = "url",
        value_name = "KEY"
    )]
    pub worker_redis_secret_key: String,

    /// The secret in which workers find what --redis-ca, --redis-cert and --redis-key name here, as
    /// `ca.crt`, `tls.crt` and `tls.key`
    #[arg(long, env = "BATCHFLEET_WORKER_REDIS_TLS_SECRET", value_name = "NAME")]
    pub worker_redis_tls_secret: Option<String>,

    /// A label of each fleet's `PodMonitor`, by which a Prometheus operator chooses; repeatable
    #[arg(
        long = "pod-monitor-label",
        env = "BATCHFLEET_POD_MONITOR_LABEL",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        value_parser = label
    )]
    pub pod_monitor_labels: Vec<(String, String)>,

    /// How often each fleet's `PodMonitor` has its workers scraped, such as 15s [default: as often as
    /// Prometheus scrapes others]
    #[arg(long, env = "BATCHFLEET_POD_MONITOR_INTERVAL", value_name = "DURATION")]
    pub pod_monitor_interval: Option<String>,

    /// The namespace whose fleets are controlled [default: the one this runs in]
    #[arg(long, env = "BATCHFLEET_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,

    /// What this process is called among the controllers of which one leads
    #[arg(long, env = "HOSTNAME", default_value = "controller", value_name = "NAME")]
    pub identity: String,

    /// What autoscalers ask.
    #[command(flatten)]
    pub external_metrics: ExternalMetricsSettings,

    /// The process.
    #[command(flatten)]
    pub process: ProcessSettings,
}

/// Where `external.metrics.k8s.io` is served, if it is.
#[derive(Args, Clone, Debug, Default)]
pub struct ExternalMetricsSettings {
    /// Where queue depths are served to autoscalers, over HTTPS, as `external.metrics.k8s.io`; port
    /// 0 takes any free one [default: nowhere]
    #[arg(
        long = "external-metrics-listen",
        env = "BATCHFLEET_EXTERNAL_METRICS_LISTEN",
        value_name = "ADDR"
    )]
    pub listen: Option<SocketAddr>,

    /// The certificate for it, and those that vouch for it, as PEM [default: one made at start,
    /// for which nobody vouches]
    #[arg(
        long = "external-metrics-certificate",
        env = "BATCHFLEET_EXTERNAL_METRICS_CERTIFICATE",
        requires = "key",
        value_name = "FILE"
    )]
    pub certificate: Option<PathBuf>,

    /// The certificate's key, as PEM
    #[arg(
        long = "external-metrics-key",
        env = "BATCHFLEET_EXTERNAL_METRICS_KEY",
        requires = "certificate",
        value_name = "FILE"
    )]
    pub key: Option<PathBuf>,
}

/// What the controller can do beside controlling.
#[derive(Subcommand, Clone, Copy, Debug)]
pub enum Command {
    /// Print the custom resource definition of `ModelFleet`
    Crd,
}

impl ControllerSettings {
    /// What all workers have in common.
    ///
    /// # Errors
    /// If a password would stand in every worker's pod, or workers would lack certificates.
    pub fn workers(&self) -> Result<WorkerDefaults, InvalidSettings> {
        let redis = match &self.worker_redis_secret {
            Some(name) => RedisAddress::Secret {
                name: name.clone(),
                key: self.worker_redis_secret_key.clone(),
            },
            None => match self.redis.url()? {
                url if url.contains('@') || url.contains("sentinel_password") => {
                    return Err(InvalidSettings::new(
                        "the URL of Redis has a password, which everybody who sees a pod would \
                         see: name the secret that workers take it from with --worker-redis-secret",
                    ));
                }
                url => RedisAddress::Url(url),
            },
        };
        let (ca, identity) = (self.redis.redis_ca.is_some(), self.redis.redis_cert.is_some());
        let redis_tls = match &self.worker_redis_tls_secret {
            None if ca || identity => {
                return Err(InvalidSettings::new(
                    "workers need certificates for Redis as well: name the secret that has them with \
                     --worker-redis-tls-secret",
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
            trace_endpoint,
            monitor_labels,
            monitor_interval,
        })
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
    fn workers_find_redis_where_the_controller_does() {
        let address = workers(&["--redis-url", "redis://redis:6379/1"]).unwrap().redis;
        assert!(matches!(address, RedisAddress::Url(url) if url == "redis://redis:6379/1"));
    }

    #[test]
    fn monitors_are_labelled_as_a_prometheus_operator_wants_them() {
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
        let expected = RedisAddress::Secret { name: "redis".to_owned(), key: "url".to_owned() };
        assert_eq!(address, expected);
    }

    #[test]
    fn workers_are_not_left_without_the_certificates_that_the_controller_needs() {
        let ca = ["--redis-url", "rediss://redis", "--redis-ca", "/ca.crt"];
        let refused = workers(&ca).unwrap_err().to_string();
        assert!(refused.contains("--worker-redis-tls-secret"), "{refused}");
        let named = [ca.as_slice(), &["--worker-redis-tls-secret", "tls"]].concat();
        let expected = RedisTls { secret: "tls".to_owned(), ca: true, identity: false };
        assert_eq!(workers(&named).unwrap().redis_tls, Some(expected));
    }
}
