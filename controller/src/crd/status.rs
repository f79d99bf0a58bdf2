//! The status of a fleet. Unknown values are written as null, so that a merge patch removes them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The observed state of a fleet, and the controller's last decision. Rates are rounded to two
/// digits.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelFleetStatus {
    /// Generation of the spec that this status describes.
    #[serde(default)]
    pub observed_generation: Option<i64>,
    /// The reason of the most important condition: what is wrong with the fleet, or `AsDesired`.
    #[serde(default)]
    pub reason: Option<String>,
    /// Replicas of the fleet's Deployment.
    #[serde(default)]
    pub replicas: u32,
    /// Ready workers.
    #[serde(default)]
    pub ready_replicas: u32,
    /// Number of workers that the controller wants; in mode `hpa` the floor of the autoscaler.
    #[serde(default)]
    pub wanted_replicas: u32,
    /// Number of workers that the `HorizontalPodAutoscaler` wants, while it decides. It is never less
    /// than `wantedReplicas`, but the autoscaler follows with a delay.
    #[serde(default)]
    pub autoscaler_replicas: Option<u32>,
    /// Label selector of the workers' pods.
    #[serde(default)]
    pub selector: String,
    /// N, the largest number of rows in a batch, for the current load and the slowest worker.
    #[serde(default)]
    pub n: Option<u32>,
    /// Rows per second offered to the fleet, refused requests included.
    #[serde(default)]
    pub offered_rows_per_second: Option<f64>,
    /// Rows per second that all living workers together can serve within the latency target.
    #[serde(default)]
    pub capacity_rows_per_second: Option<f64>,
    /// 99th percentile of the latency of recent requests, in milliseconds.
    #[serde(default)]
    pub p99_ms: Option<u32>,
    /// Measured cold start of a worker, in seconds: the 90th percentile of the last ten starts.
    /// Absent until a start has been measured; until then `scaling.coldStartSeconds` applies.
    #[serde(default)]
    pub cold_start_seconds: Option<u32>,
    /// Why the controller wants this number of workers.
    #[serde(default)]
    pub explanation: Option<String>,
    /// Conditions: `Ready`, `Progressing`, `MetricsStale`, `SLOInfeasible`, `ScalingLimited`,
    /// `ScalingConflict`, `AutoscalerActive` and `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
