//! The desired objects of a fleet: its Deployment, autoscaler, disruption budget and `PodMonitor`.
//! Pure.

mod autoscaler;
mod defaults;
mod identity;
mod monitor;
mod pod;
#[cfg(test)]
mod tests;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        autoscaling::v2::HorizontalPodAutoscaler,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::api::DynamicObject;

use crate::{
    crd::{ModelFleet, ScalingMode},
    decide::FleetSize,
};

pub use self::defaults::{RedisTls, WorkerDefaults, WorkerRedis};
use self::identity::{metadata, selector, signed};
pub(crate) use self::{
    autoscaler::QUEUE_DEPTH,
    identity::{FLEET, MANAGER},
    monitor::pod_monitor,
    pod::{mounted_keys, mounts_secret},
};

/// Loading a model may take ten minutes before the rollout counts as stuck.
const PROGRESS_SECONDS: i32 = 600;

/// The desired objects of a fleet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FleetObjects {
    /// Runs the workers.
    pub(crate) deployment: Deployment,
    /// Adds workers above the floor; only in mode `hpa`.
    pub(crate) autoscaler: Option<HorizontalPodAutoscaler>,
    /// Limits how many workers may be evicted at the same time.
    pub(crate) budget: PodDisruptionBudget,
    /// Lets Prometheus scrape the workers; applied only where the Prometheus operator is installed.
    pub(crate) monitor: DynamicObject,
}

impl FleetObjects {
    /// Builds the objects of a fleet of this size.
    pub(crate) fn of(fleet: &ModelFleet, size: FleetSize, defaults: &WorkerDefaults) -> Self {
        let mode = fleet.spec.scaling.mode;
        Self {
            deployment: deployment(fleet, size, defaults),
            autoscaler: (mode == ScalingMode::Hpa).then(|| autoscaler::of(fleet, size)),
            budget: budget(fleet),
            monitor: monitor::of(fleet, defaults),
        }
    }
}

fn deployment(fleet: &ModelFleet, size: FleetSize, defaults: &WorkerDefaults) -> Deployment {
    let scaling = &fleet.spec.scaling;
    // The controller sets the number of workers only in mode `direct`. In the other modes the
    // applied object omits the field, so that applying the object never resets the number.
    let replicas = (scaling.mode == ScalingMode::Direct).then(|| signed(size.floor));
    Deployment {
        metadata: metadata(fleet),
        spec: Some(DeploymentSpec {
            replicas,
            selector: selector(fleet),
            strategy: Some(strategy(fleet)),
            progress_deadline_seconds: Some(PROGRESS_SECONDS),
            revision_history_limit: Some(3),
            template: pod::template(fleet, defaults),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// Replaces workers one by one. A new worker starts before an old worker stops, except with GPUs:
/// the cluster may have no spare GPU for the new worker.
fn strategy(fleet: &ModelFleet) -> DeploymentStrategy {
    let (surge, unavailable) = if fleet.spec.worker.gpu.is_some() { (0, 1) } else { (1, 0) };
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
        }),
    }
}

fn budget(fleet: &ModelFleet) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(fleet),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::String("25%".to_owned())),
            selector: Some(selector(fleet)),
            // Workers that are not ready must not block node drains.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
