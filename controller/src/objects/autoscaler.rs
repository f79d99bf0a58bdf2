//! The autoscaler of a fleet: it adds workers to the floor while jobs wait, and is the only one to
//! set their number.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::autoscaling::v2::{
        CrossVersionObjectReference, ExternalMetricSource, HPAScalingPolicy, HPAScalingRules,
        HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec,
        MetricIdentifier, MetricSpec, MetricTarget,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::LabelSelector},
};

use super::{Plan, metadata, whole};
use crate::{crd::ModelFleet, external::QUEUE_DEPTH};

/// How often the autoscaler looks.
const SYNC_SECONDS: i32 = 15;
/// Fewer workers only when fewer were enough for so long.
const CALM_SECONDS: i32 = 300;

pub(super) fn of(fleet: &ModelFleet, plan: Plan) -> HorizontalPodAutoscaler {
    let most = fleet.spec.replicas.unwrap_or(fleet.spec.scaling.max).max(1);
    HorizontalPodAutoscaler {
        metadata: metadata(fleet),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: fleet.metadata.name.clone().unwrap_or_default(),
            },
            // It knows no zero. It rests while there are no workers, and goes on when there is one.
            min_replicas: Some(whole(plan.floor.clamp(1, most))),
            max_replicas: whole(most),
            metrics: Some(vec![queue_depth(fleet, plan)]),
            behavior: Some(behavior(most)),
        }),
        ..HorizontalPodAutoscaler::default()
    }
}

fn queue_depth(fleet: &ModelFleet, plan: Plan) -> MetricSpec {
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
                average_value: Some(Quantity(plan.depth_per_worker.max(1).to_string())),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

/// Up at once and as far as needed, down slowly.
fn behavior(most: u32) -> HorizontalPodAutoscalerBehavior {
    HorizontalPodAutoscalerBehavior {
        scale_up: Some(HPAScalingRules {
            stabilization_window_seconds: Some(0),
            select_policy: Some("Max".to_owned()),
            policies: Some(vec![HPAScalingPolicy {
                type_: "Pods".to_owned(),
                value: whole(most),
                period_seconds: SYNC_SECONDS,
            }]),
            ..HPAScalingRules::default()
        }),
        scale_down: Some(HPAScalingRules {
            stabilization_window_seconds: Some(CALM_SECONDS),
            ..HPAScalingRules::default()
        }),
    }
}
