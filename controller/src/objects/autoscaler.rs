//! The `HorizontalPodAutoscaler` of a fleet. In mode `hpa` only the autoscaler sets the number of
//! workers, except from and to zero. It adds workers to the floor while jobs wait.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::autoscaling::v2::{
        CrossVersionObjectReference, ExternalMetricSource, HPAScalingPolicy, HPAScalingRules,
        HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec,
        MetricIdentifier, MetricSpec, MetricTarget,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::LabelSelector},
};

use super::identity::{metadata, signed};
use crate::{crd::ModelFleet, decide::FleetSize};

/// The metric that autoscalers read: jobs in a queue that no worker has claimed. Gateways export a
/// metric of the same name, so a Prometheus adapter can serve the metric instead of the controller.
pub(crate) const QUEUE_DEPTH: &str = "batchfleet_queue_depth";

/// Interval at which the autoscaler reads its metrics.
const SYNC_SECONDS: i32 = 15;
/// The autoscaler removes workers only after fewer workers were enough for 300 s.
const SCALE_DOWN_SECONDS: i32 = 300;

pub(super) fn of(fleet: &ModelFleet, size: FleetSize) -> HorizontalPodAutoscaler {
    let allowed = fleet.spec.replicas.unwrap_or(fleet.spec.scaling.max).max(1);
    // Lowering the maximum also stops workers that are too many at once, without the autoscaler's
    // window. The controller's floor has a hold of its own.
    let most = if size.may_grow { allowed } else { size.floor.clamp(1, allowed) };
    HorizontalPodAutoscaler {
        metadata: metadata(fleet),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: fleet.metadata.name.clone().unwrap_or_default(),
            },
            // An autoscaler cannot have a minimum of zero. It is inactive while the Deployment has
            // no replicas.
            min_replicas: Some(signed(size.floor.clamp(1, most))),
            max_replicas: signed(most),
            metrics: Some(vec![queue_depth(fleet, size)]),
            behavior: Some(behavior(allowed)),
        }),
        ..HorizontalPodAutoscaler::default()
    }
}

fn queue_depth(fleet: &ModelFleet, size: FleetSize) -> MetricSpec {
    let mut labels = BTreeMap::from([("model".to_owned(), fleet.model_name())]);
    if let Some(version) = fleet.spec.model.version {
        labels.insert("version".to_owned(), version.to_string());
    }
    MetricSpec {
        type_: "External".to_owned(),
        external: Some(ExternalMetricSource {
            metric: MetricIdentifier {
                name: QUEUE_DEPTH.to_owned(),
                selector: Some(LabelSelector {
                    match_labels: Some(labels),
                    match_expressions: None,
                }),
            },
            target: MetricTarget {
                type_: "AverageValue".to_owned(),
                average_value: Some(Quantity(size.depth_per_worker.max(1).to_string())),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

/// Scales up immediately to any number of workers, and scales down slowly.
fn behavior(most: u32) -> HorizontalPodAutoscalerBehavior {
    HorizontalPodAutoscalerBehavior {
        scale_up: Some(HPAScalingRules {
            stabilization_window_seconds: Some(0),
            select_policy: Some("Max".to_owned()),
            policies: Some(vec![HPAScalingPolicy {
                type_: "Pods".to_owned(),
                value: signed(most),
                period_seconds: SYNC_SECONDS,
            }]),
            ..HPAScalingRules::default()
        }),
        scale_down: Some(HPAScalingRules {
            stabilization_window_seconds: Some(SCALE_DOWN_SECONDS),
            ..HPAScalingRules::default()
        }),
    }
}
