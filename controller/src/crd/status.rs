//! What a person is told about a fleet. What is not known any more is written as null, so that a merge
//! takes it away.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is known of a fleet, and what was decided about it. Rates are rounded, so that noise does
/// not write.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelFleetStatus {
    /// The generation of the spec that this is about.
    #[serde(default)]
    pub observed_generation: Option<i64>,
    /// Workers that were ordered.
    #[serde(default)]
    pub replicas: u32,
    /// Workers that are ready.
    #[serde(default)]
    pub ready_replicas: u32,
    /// Workers that there should be; in mode `hpa` the floor below which it does not go.
    #[serde(default)]
    pub wanted_replicas: u32,
    /// The workers' pods, as a label selector.
    #[serde(default)]
    pub selector: String,
    /// N: the most rows that run together.
    #[serde(default)]
    pub n: Option<u32>,
    /// What is asked of the fleet, refused requests included.
    #[serde(default)]
    pub offered_rows_per_second: Option<f64>,
    /// What all its workers can do within the latency target.
    #[serde(default)]
    pub capacity_rows_per_second: Option<f64>,
    /// The 99th percentile of latency of late, in milliseconds.
    #[serde(default)]
    pub p99_ms: Option<u32>,
    /// How long a worker takes to start, in seconds: what nine of the last ten kept to. Before any
    /// was measured it is `scaling.coldStartSeconds` that is reckoned with.
    #[serde(default)]
    pub cold_start_seconds: Option<u32>,
    /// Why the fleet is as large as it is.
    #[serde(default)]
    pub explanation: Option<String>,
    /// What holds of it now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
