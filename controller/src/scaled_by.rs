//! Determines what sets the number of workers of a fleet at present. Pure.

use k8s_openapi::{
    api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition},
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;

use crate::{crd::ScalingMode, objects::QUEUE_DEPTH};

/// An autoscaler that has been unable to work, or to read its metric, for this long has failed. Four of its periods,
/// so that a restart of the metrics API does not count.
const BLIND_AFTER: SignedDuration = SignedDuration::from_mins(1);

/// An autoscaler without a status after this time has no controller.
const UNATTENDED_AFTER: SignedDuration = SignedDuration::from_mins(2);

/// Reasons of an autoscaler that decides, or will within a minute.
pub(crate) const AUTOSCALER: [&str; 2] = ["MetricPending", "MetricRead"];

/// What sets the number of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ScaledBy {
    /// The controller, because `scaling.mode` is `direct`.
    Controller,
    /// Another autoscaler, because `scaling.mode` is `external`.
    Other,
    /// The fleet's autoscaler; the number that it wants, or `None` if it has not read its metric yet, or
    /// not for less than a minute.
    Autoscaler(Option<u32>),
    /// The controller, because the fleet's autoscaler cannot read its metric. Such an autoscaler
    /// keeps the number above the floor and never removes a worker.
    ControllerInstead {
        /// Why the autoscaler cannot read its metric.
        why: String,
    },
    /// The controller, because the fleet's autoscaler does not work for another reason.
    AutoscalerFailed {
        /// What is wrong with the autoscaler, as a sentence about it.
        why: String,
    },
}

impl ScaledBy {
    /// Returns what scales a fleet in this mode, whose autoscaler is `autoscaler`. A fleet without a
    /// ready worker may have no queue yet, so that no metrics API can serve its depth.
    pub(crate) fn of(
        mode: ScalingMode,
        autoscaler: Option<&HorizontalPodAutoscaler>,
        has_workers: bool,
        now: Timestamp,
    ) -> Self {
        match mode {
            ScalingMode::Direct => Self::Controller,
            ScalingMode::External => Self::Other,
            ScalingMode::Hpa => Self::of_autoscaler(autoscaler, has_workers, now),
        }
    }

    fn of_autoscaler(
        autoscaler: Option<&HorizontalPodAutoscaler>,
        has_workers: bool,
        now: Timestamp,
    ) -> Self {
        let status = autoscaler.and_then(|autoscaler| autoscaler.status.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        if let Some(failed) = conditions.iter().find(|it| has_failed(it, now)) {
            if !lacks_metric(failed) {
                return Self::AutoscalerFailed { why: quoted(failed) };
            }
            if has_workers {
                return Self::ControllerInstead { why: cause(failed) };
            }
        }
        let created = autoscaler.and_then(ResourceExt::creation_timestamp);
        let is_old = created.is_some_and(|at| now.duration_since(at.0) >= UNATTENDED_AFTER);
        if conditions.is_empty() && is_old {
            let why = "has no status: no controller of the cluster works on it".to_owned();
            return Self::AutoscalerFailed { why };
        }
        let desired = conditions.iter().find(|it| is_active(it)).and(status);
        let desired = desired.and_then(|status| u32::try_from(status.desired_replicas).ok());
        Self::Autoscaler(desired)
    }

    /// Returns the number of workers that the autoscaler wants, if the autoscaler decides.
    pub(crate) fn autoscaler_wants(&self) -> Option<u32> {
        if let Self::Autoscaler(desired) = self { *desired } else { None }
    }

    /// Returns whether the controller sets the number of workers in place of the fleet's autoscaler.
    pub(crate) fn is_controller_instead(&self) -> bool {
        matches!(self, Self::ControllerInstead { .. } | Self::AutoscalerFailed { .. })
    }

    /// Returns the reason of the condition `AutoscalerActive`, for programs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Controller => "ModeDirect",
            Self::Other => "ModeExternal",
            Self::Autoscaler(None) => "MetricPending",
            Self::Autoscaler(Some(_)) => "MetricRead",
            Self::ControllerInstead { .. } => "MetricUnavailable",
            Self::AutoscalerFailed { .. } => "AutoscalerFailed",
        }
    }

    /// Describes what scales the fleet in a sentence; `floor` is the number that the controller wants.
    pub(crate) fn sentence(&self, floor: u32) -> String {
        match self {
            Self::Controller => {
                "the controller sets the number of workers, because scaling.mode is direct"
                    .to_owned()
            }
            Self::Other => {
                "another autoscaler sets the number of workers, because scaling.mode is \
                            external; it can follow status.wantedReplicas"
                    .to_owned()
            }
            Self::Autoscaler(None) => {
                format!(
                    "the HorizontalPodAutoscaler waits for {QUEUE_DEPTH}; it keeps the controller's \
                     minimum of {floor}"
                )
            }
            Self::Autoscaler(Some(desired)) => format!(
                "the HorizontalPodAutoscaler wants {desired}, from {QUEUE_DEPTH} and the controller's \
                 minimum of {floor}"
            ),
            Self::ControllerInstead { why } => format!(
                "the controller sets the number of workers, because the HorizontalPodAutoscaler \
                 cannot read {QUEUE_DEPTH} ({why}): set scaling.mode to direct, or serve the metric, \
                 for example with the chart's externalMetrics.enabled"
            ),
            Self::AutoscalerFailed { why } => format!(
                "the controller sets the number of workers, because the HorizontalPodAutoscaler {why}"
            ),
        }
    }
}

/// Returns the cause in the message of a condition: the part behind the description of the metric.
fn cause(condition: &HorizontalPodAutoscalerCondition) -> String {
    let message = condition.message.as_deref().unwrap_or_default();
    message.rsplit_once("}: ").map_or(message, |(_, cause)| cause).to_owned()
}

fn is_active(condition: &HorizontalPodAutoscalerCondition) -> bool {
    condition.type_ == "ScalingActive" && condition.status == "True"
}

/// Returns what an autoscaler says about itself.
fn quoted(condition: &HorizontalPodAutoscalerCondition) -> String {
    let reason = condition.reason.as_deref().unwrap_or_default();
    let message = condition.message.as_deref().unwrap_or_default();
    format!("does not work ({reason}: {message})")
}

/// Returns whether an autoscaler has been unable to work for a while. It does not work on purpose while
/// its Deployment has no replicas.
fn has_failed(condition: &HorizontalPodAutoscalerCondition, now: Timestamp) -> bool {
    let since = condition.last_transition_time.as_ref();
    condition.type_ == "ScalingActive"
        && condition.status == "False"
        && condition.reason.as_deref() != Some("ScalingDisabled")
        && since.is_some_and(|since| now.duration_since(since.0) >= BLIND_AFTER)
}

fn lacks_metric(condition: &HorizontalPodAutoscalerCondition) -> bool {
    condition.reason.as_deref().unwrap_or_default().starts_with("FailedGet")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn scaled_by(mode: ScalingMode, conditions: &Value) -> ScaledBy {
        let status = json!({"desiredReplicas": 4, "conditions": conditions});
        let autoscaler = serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap();
        ScaledBy::of(mode, Some(&autoscaler), true, "2026-01-01T00:10:00Z".parse().unwrap())
    }

    fn active(status: &str, reason: &str, since: &str) -> Value {
        json!([{
            "type": "ScalingActive", "status": status, "reason": reason,
            "message": "metric q/&LabelSelector{MatchLabels:{model: m}}: no metrics API",
            "lastTransitionTime": since,
        }])
    }

    #[test]
    fn the_controller_takes_over_once_the_autoscaler_has_missed_its_metric_for_a_minute() {
        let long = "2026-01-01T00:09:00Z";
        for (conditions, expected) in [
            (json!(null), ScaledBy::Autoscaler(None)),
            (active("True", "ValidMetricFound", long), ScaledBy::Autoscaler(Some(4))),
            (active("False", "ScalingDisabled", long), ScaledBy::Autoscaler(None)),
            (
                active("False", "AmbiguousSelector", long),
                ScaledBy::AutoscalerFailed {
                    why: "does not work (AmbiguousSelector: metric \
                          q/&LabelSelector{MatchLabels:{model: m}}: no metrics API)"
                        .to_owned(),
                },
            ),
            (
                active("False", "FailedGetExternalMetric", "2026-01-01T00:09:01Z"),
                ScaledBy::Autoscaler(None),
            ),
            (
                active("False", "FailedGetExternalMetric", long),
                ScaledBy::ControllerInstead { why: "no metrics API".to_owned() },
            ),
        ] {
            assert_eq!(scaled_by(ScalingMode::Hpa, &conditions), expected, "{conditions}");
        }
    }

    #[test]
    fn a_fleet_without_a_worker_waits_for_its_metric() {
        let conditions = active("False", "FailedGetExternalMetric", "2026-01-01T00:00:00Z");
        let status = json!({"desiredReplicas": 0, "conditions": conditions});
        let autoscaler = serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap();
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        let scaled_by = ScaledBy::of(ScalingMode::Hpa, Some(&autoscaler), false, now);
        assert_eq!(scaled_by, ScaledBy::Autoscaler(None));
    }

    #[test]
    fn an_autoscaler_that_no_controller_works_on_is_replaced_after_two_minutes() {
        let metadata = json!({"creationTimestamp": "2026-01-01T00:00:00Z"});
        let autoscaler = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        let at = |now: &str| {
            ScaledBy::of(ScalingMode::Hpa, Some(&autoscaler), true, now.parse().unwrap())
        };
        assert_eq!(at("2026-01-01T00:01:59Z"), ScaledBy::Autoscaler(None));
        let failed = at("2026-01-01T00:02:00Z");
        assert_eq!(failed.reason(), "AutoscalerFailed");
        assert!(failed.sentence(1).contains("has no status"), "{}", failed.sentence(1));
    }

    #[test]
    fn the_mode_decides_where_there_is_no_autoscaler() {
        assert_eq!(scaled_by(ScalingMode::Direct, &json!([])), ScaledBy::Controller);
        assert_eq!(scaled_by(ScalingMode::External, &json!([])), ScaledBy::Other);
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(ScaledBy::of(ScalingMode::Hpa, None, true, now), ScaledBy::Autoscaler(None));
    }
}
