//! The controller's settings for the workers of all fleets.

use std::{collections::BTreeMap, num::NonZeroUsize};

/// Settings shared by the workers of all fleets.
#[derive(Clone, Debug)]
pub struct WorkerDefaults {
    /// Image of the workers of fleets that do not set `worker.image`.
    pub image: String,
    /// Where workers find the URL of Redis.
    pub redis: WorkerRedis,
    /// Certificates for TLS with Redis, in addition to the certificates in the worker image.
    pub redis_tls: Option<RedisTls>,
    /// The number of Redises of which workers read the URLs. Workers are replaced when it changes,
    /// because they count the URLs when they start.
    pub redises: Option<NonZeroUsize>,
    /// The number of workers for which a queue uses one more Redis; `None` for their default.
    pub workers_per_shard: Option<NonZeroUsize>,
    /// User and group ID of the pods; `None` where the cluster assigns them.
    pub user: Option<i64>,
    /// The collector to which workers send traces.
    pub trace_endpoint: Option<String>,
    /// Labels of each `PodMonitor`, by which a Prometheus operator selects it.
    pub monitor_labels: BTreeMap<String, String>,
    /// Scrape interval of each `PodMonitor`, as a Prometheus duration; `None` for the default of
    /// Prometheus.
    pub monitor_interval: Option<String>,
}

/// Where workers find the URL of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerRedis {
    /// In a flag of the pod. The URL has no password, because every user who can read pods can read
    /// the flag.
    Url(String),
    /// In a secret that is mounted as a file, so that the environment does not contain the
    /// password.
    Secret {
        /// Name of the secret.
        name: String,
        /// Key that holds the URL.
        key: String,
    },
}

/// A secret with certificates for Redis. The fields tell which keys the secret has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTls {
    /// Name of the secret.
    pub secret: String,
    /// `ca.crt`: certificate of the authority that signed the certificate of Redis.
    pub ca: bool,
    /// `tls.crt` and `tls.key`: client certificate for Redis, and its key.
    pub identity: bool,
}

impl RedisTls {
    /// Returns the keys of the secret, each with the worker flag for its file: (flag, key).
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
