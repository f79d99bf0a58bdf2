//! The controller's settings for the workers of all fleets.

use std::collections::BTreeMap;

/// Settings that the workers of all fleets share.
#[derive(Clone, Debug)]
pub struct WorkerDefaults {
    /// The image of the workers of fleets that do not set `worker.image`.
    pub image: String,
    /// Where workers find the URL of Redis.
    pub redis: WorkerRedis,
    /// Certificates for TLS with Redis, beyond those that the worker image trusts.
    pub redis_tls: Option<RedisTls>,
    /// The collector to which workers send traces.
    pub trace_endpoint: Option<String>,
    /// Labels of each `PodMonitor`, by which a Prometheus operator selects it.
    pub monitor_labels: BTreeMap<String, String>,
    /// Scrape interval of each `PodMonitor` as a Prometheus duration; Prometheus' own default if
    /// `None`.
    pub monitor_interval: Option<String>,
}

/// Where workers find the URL of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerRedis {
    /// In a flag of the pod. The URL has no password: every user who may read pods can read it.
    Url(String),
    /// In a secret, mounted as a file, so that no environment variable holds the password.
    Secret {
        /// The secret's name.
        name: String,
        /// The key whose value is the URL.
        key: String,
    },
}

/// A secret with certificates for Redis. Each field says whether the secret has these keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTls {
    /// The secret's name.
    pub secret: String,
    /// `ca.crt`: the authority that signed the certificate of Redis.
    pub ca: bool,
    /// `tls.crt` and `tls.key`: the client certificate that Redis asks for, and its key.
    pub identity: bool,
}

impl RedisTls {
    /// The worker's flag for each key of the secret, and the key.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let (ca, identity) = (self.ca, self.identity);
        let files = [
            (ca, "redis-ca", "ca.crt"),
            (identity, "redis-cert", "tls.crt"),
            (identity, "redis-key", "tls.key"),
        ];
        files.into_iter().filter(|(present, ..)| *present).map(|(_, flag, key)| (flag, key))
    }
}
