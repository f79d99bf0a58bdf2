//! How a Prometheus operator scrapes the workers of a fleet.

use kube::{
    ResourceExt,
    api::{DynamicObject, TypeMeta},
};
use serde_json::json;

use super::{WorkerDefaults, metadata, pod::ADMIN, pods};
use crate::{cluster::pod_monitor, crd::ModelFleet};

pub(super) fn of(fleet: &ModelFleet, defaults: &WorkerDefaults) -> DynamicObject {
    let kind = pod_monitor();
    let mut endpoint = json!({"port": ADMIN, "path": "/metrics"});
    if let Some(interval) = &defaults.monitor_interval {
        endpoint["interval"] = json!(interval);
    }
    let mut monitor = DynamicObject {
        types: Some(TypeMeta { api_version: kind.api_version, kind: kind.kind }),
        metadata: metadata(fleet),
        data: json!({"spec": {"selector": pods(fleet), "podMetricsEndpoints": [endpoint]}}),
    };
    monitor.labels_mut().extend(defaults.monitor_labels.clone());
    monitor
}
