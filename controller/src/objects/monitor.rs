//! The `PodMonitor` that tells a Prometheus operator to scrape the workers of a fleet.

use kube::{
    ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta},
};
use serde_json::json;

use super::{
    defaults::WorkerDefaults,
    identity::{metadata, selector},
    pod::ADMIN,
};
use crate::crd::ModelFleet;

/// The API resource of the Prometheus operator's `PodMonitor`.
pub(crate) fn pod_monitor() -> ApiResource {
    let kind = GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor");
    ApiResource::from_gvk_with_plural(&kind, "podmonitors")
}

pub(super) fn of(fleet: &ModelFleet, defaults: &WorkerDefaults) -> DynamicObject {
    let kind = pod_monitor();
    let mut endpoint = json!({"port": ADMIN, "path": "/metrics"});
    if let Some(interval) = &defaults.monitor_interval {
        endpoint["interval"] = json!(interval);
    }
    let mut monitor = DynamicObject {
        types: Some(TypeMeta { api_version: kind.api_version, kind: kind.kind }),
        metadata: metadata(fleet),
        data: json!({"spec": {"selector": selector(fleet), "podMetricsEndpoints": [endpoint]}}),
    };
    monitor.labels_mut().extend(defaults.monitor_labels.clone());
    monitor
}
