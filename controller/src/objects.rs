//! What should stand in the cluster for a fleet: its Deployment, its autoscaler, its disruption
//! budget, and how it is scraped. Pure.

mod autoscaler;
mod monitor;
mod pod;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        autoscaling::v2::HorizontalPodAutoscaler,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::{
    Resource, ResourceExt,
    api::{DynamicObject, ObjectMeta},
};

use crate::crd::{ModelFleet, ScalingMode};

/// The label by which a fleet's objects and pods are told apart.
pub(crate) const FLEET: &str = "batchfleet.dev/fleet";
/// The controller's name to whoever asks who manages an object.
pub(crate) const MANAGER: &str = "batchfleet-controller";
/// A worker may take ten minutes to load its model before its rollout counts as stuck.
const PROGRESS_SECONDS: i32 = 600;

/// What all workers have in common, from the controller's settings.
#[derive(Clone, Debug)]
pub struct WorkerDefaults {
    /// The image of a worker whose fleet names none.
    pub image: String,
    /// Where workers find Redis.
    pub redis: RedisAddress,
    /// What they need for TLS with it, beyond what their image trusts.
    pub redis_tls: Option<RedisTls>,
    /// The collector that they send traces to.
    pub trace_endpoint: Option<String>,
    /// Labels by which a Prometheus operator chooses what it scrapes.
    pub monitor_labels: BTreeMap<String, String>,
    /// How often it scrapes them, as Prometheus writes durations; its own habit if `None`.
    pub monitor_interval: Option<String>,
}

/// Where workers find Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisAddress {
    /// There; no password in it, because everybody who may look at pods may read it.
    Url(String),
    /// In a secret, which is mounted: no environment holds it.
    Secret {
        /// The secret's name.
        name: String,
        /// The key under which the URL stands.
        key: String,
    },
}

/// A secret with certificates for Redis; `true` for what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTls {
    /// The secret's name.
    pub secret: String,
    /// `ca.crt`: who vouches for the certificate of Redis.
    pub ca: bool,
    /// `tls.crt` and `tls.key`: the certificate that Redis asks for, and its key.
    pub identity: bool,
}

impl RedisTls {
    /// The workers' flags for what is in it, and under which key that stands.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let (ca, identity) = (self.ca, self.identity);
        let files = [
            (ca, "redis-ca", "ca.crt"),
            (identity, "redis-cert", "tls.crt"),
            (identity, "redis-key", "tls.key"),
        ];
        files.into_iter().filter(|(there, ..)| *there).map(|(_, flag, key)| (flag, key))
    }
}

/// What was decided about a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Workers there should be, at least.
    pub(crate) floor: u32,
    /// Jobs that may wait for each worker before the autoscaler adds more.
    pub(crate) depth_per_worker: u32,
}

/// What should stand in the cluster for a fleet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Objects {
    /// The workers.
    pub(crate) deployment: Deployment,
    /// Who adds workers to the floor, where that is not the controller or somebody else.
    pub(crate) autoscaler: Option<HorizontalPodAutoscaler>,
    /// How many workers may be evicted at once.
    pub(crate) budget: PodDisruptionBudget,
    /// How the workers are scraped, where the Prometheus operator is.
    pub(crate) monitor: DynamicObject,
}

impl Objects {
    /// Of a fleet, as decided.
    pub(crate) fn of(fleet: &ModelFleet, plan: Plan, defaults: &WorkerDefaults) -> Self {
        let mode = fleet.spec.scaling.mode;
        Self {
            deployment: deployment(fleet, plan, defaults),
            autoscaler: (mode == ScalingMode::Hpa).then(|| autoscaler::of(fleet, plan)),
            budget: budget(fleet),
            monitor: monitor::of(fleet, defaults),
        }
    }
}

impl ModelFleet {
    /// The model's name in the repository and in requests.
    pub(crate) fn model_name(&self) -> String {
        self.spec.model.name.clone().unwrap_or_else(|| self.name_any())
    }
}

fn deployment(fleet: &ModelFleet, plan: Plan, defaults: &WorkerDefaults) -> Deployment {
    let scaling = &fleet.spec.scaling;
    // One hand sets the number of workers: in the other modes it is not ours, and an object that
    // never names it never sets it back.
    let replicas = (scaling.mode == ScalingMode::Direct).then(|| whole(plan.floor));
    Deployment {
        metadata: metadata(fleet),
        spec: Some(DeploymentSpec {
            replicas,
            selector: pods(fleet),
            strategy: Some(strategy(fleet)),
            progress_deadline_seconds: Some(PROGRESS_SECONDS),
            revision_history_limit: Some(3),
            template: pod::template(fleet, defaults),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// One by one. A new worker starts before an old one goes, except where each holds a GPU: there may
/// be no spare one to start on.
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
            selector: Some(pods(fleet)),
            // A worker that does not work must not keep a node from being emptied.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

fn metadata(fleet: &ModelFleet) -> ObjectMeta {
    ObjectMeta {
        name: fleet.metadata.name.clone(),
        namespace: fleet.metadata.namespace.clone(),
        labels: Some(labels(fleet)),
        // Whoever deletes the fleet deletes these.
        owner_references: fleet.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

fn labels(fleet: &ModelFleet) -> BTreeMap<String, String> {
    let label = |key: &str, value: String| (key.to_owned(), value);
    BTreeMap::from([
        label("app.kubernetes.io/name", "batchfleet-worker".to_owned()),
        label("app.kubernetes.io/instance", fleet.name_any()),
        label("app.kubernetes.io/component", "worker".to_owned()),
        label("app.kubernetes.io/managed-by", MANAGER.to_owned()),
        label(FLEET, fleet.name_any()),
    ])
}

fn pods(fleet: &ModelFleet) -> LabelSelector {
    let name = (FLEET.to_owned(), fleet.name_any());
    LabelSelector { match_labels: Some(BTreeMap::from([name])), match_expressions: None }
}

/// Kubernetes counts in numbers that may be negative.
fn whole(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
