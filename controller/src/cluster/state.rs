//! The objects of one fleet in the cluster, and conflicts with other objects. Pure.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod,
    policy::v1::PodDisruptionBudget,
};
use kube::{Resource, ResourceExt, api::DynamicObject};

use crate::{
    crd::{ModelFleet, ScalingMode},
    problem::Problem,
};

/// Reason of the condition `ScalingConflict` of a fleet whose model an older fleet serves.
pub(crate) const SAME_MODEL: &str = "SameModel";

/// The object in the cluster that has the name of one of the fleet's objects.
#[derive(Clone, Debug)]
pub(crate) enum Existing<K> {
    /// No object has this name.
    Absent,
    /// The fleet owns the object.
    Owned(Arc<K>),
    /// The object belongs to a deleted fleet of the same name. Kubernetes deletes it soon.
    Leftover,
    /// The fleet does not own the object. The controller never changes such an object.
    Foreign,
}

impl<K: Resource> Existing<K> {
    pub(super) fn of(fleet: &ModelFleet, found: Option<Arc<K>>) -> Self {
        match found {
            None => Self::Absent,
            Some(found) if is_owned(fleet, &*found) => Self::Owned(found),
            Some(found) if is_left(fleet, &*found) => Self::Leftover,
            Some(_) => Self::Foreign,
        }
    }
}

impl<K> Existing<K> {
    pub(crate) fn owned(&self) -> Option<&K> {
        if let Self::Owned(object) = self { Some(object) } else { None }
    }

    fn is_foreign(&self) -> bool {
        matches!(self, Self::Foreign)
    }

    fn is_leftover(&self) -> bool {
        matches!(self, Self::Leftover)
    }
}

/// Returns whether a fleet owns an object.
pub(super) fn is_owned(fleet: &ModelFleet, object: &impl Resource) -> bool {
    let uid = fleet.uid();
    object.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
}

/// Returns whether an object belongs to a deleted fleet that had the name of this fleet.
pub(super) fn is_left(fleet: &ModelFleet, object: &impl Resource) -> bool {
    let (uid, name) = (fleet.uid(), fleet.name_any());
    let mut owners = object.owner_references().iter();
    owners.any(|it| it.kind == "ModelFleet" && it.name == name && Some(&it.uid) != uid.as_ref())
}

/// The objects of one fleet in the cluster.
pub(crate) struct ClusterState {
    pub(crate) deployment: Existing<Deployment>,
    pub(crate) autoscaler: Existing<HorizontalPodAutoscaler>,
    pub(crate) budget: Existing<PodDisruptionBudget>,
    /// `None` if the Prometheus operator is not installed.
    pub(crate) monitor: Option<Existing<DynamicObject>>,
    /// Pods of the workers, including terminating ones.
    pub(crate) pods: Vec<Arc<Pod>>,
    /// Kind and name of another autoscaler of the same Deployment.
    pub(crate) rival: Option<String>,
    /// Name of an older fleet of the same model and version.
    pub(crate) elder: Option<String>,
}

impl ClusterState {
    /// Returns the replicas of the Deployment, or 0 if there is no Deployment.
    pub(crate) fn ordered(&self) -> u32 {
        let spec = self.deployment.owned().and_then(|deployment| deployment.spec.as_ref());
        spec.map_or(0, |spec| count(spec.replicas.or(Some(1))))
    }

    /// Returns the number of ready workers.
    pub(crate) fn ready(&self) -> u32 {
        let status = self.deployment.owned().and_then(|deployment| deployment.status.as_ref());
        count(status.and_then(|status| status.ready_replicas))
    }

    /// Returns the conflicts of a fleet in this scaling mode.
    pub(crate) fn conflicts(&self, mode: ScalingMode) -> Conflicts {
        let is_hpa = mode == ScalingMode::Hpa;
        let autoscaler = "the HorizontalPodAutoscaler of the fleet's name".to_owned();
        let foreign = (is_hpa && self.autoscaler.is_foreign()).then_some(autoscaler);
        let rival = self.rival.clone().filter(|_| mode != ScalingMode::External).or(foreign);
        let kinds = [
            ("Deployment", self.deployment.is_foreign()),
            ("PodDisruptionBudget", self.budget.is_foreign()),
            ("PodMonitor", self.monitor.as_ref().is_some_and(Existing::is_foreign)),
        ];
        let kinds: Vec<_> = kinds.iter().filter(|(_, foreign)| *foreign).map(|(k, _)| *k).collect();
        Conflicts {
            scaling: self.elder.as_deref().map(same_model).or_else(|| rival.as_deref().map(other)),
            foreign: (!kinds.is_empty()).then(|| {
                format!(
                    "{} of the fleet's name does not belong to this fleet and is not changed: \
                     delete it, or rename the fleet",
                    kinds.join(" and ")
                )
            }),
            is_surplus: self.elder.is_some(),
            waits_for_deletion: self.deployment.is_leftover(),
            blocks_writes: self.elder.is_some()
                || self.deployment.is_foreign()
                || self.deployment.is_leftover()
                || self.rival.is_some() && mode != ScalingMode::External,
        }
    }
}

fn other(rival: &str) -> Problem {
    let message = format!(
        "{rival} does not belong to this fleet, and scales its Deployment or takes the name of its \
         autoscaler: delete it, or set scaling.mode to external"
    );
    Problem::new("OtherAutoscaler", message)
}

fn same_model(elder: &str) -> Problem {
    let message = format!(
        "the ModelFleet {elder} is older and serves the same model and version, and two fleets would \
         each be scaled to the whole load: nothing of this fleet is changed until {elder} is deleted or \
         serves another version"
    );
    Problem::new(SAME_MODEL, message)
}

/// Conflicts between a fleet and other objects, as sentences for users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conflicts {
    /// Another autoscaler scales the fleet's Deployment or has the name of the fleet's autoscaler, or
    /// another fleet serves the same model.
    pub(crate) scaling: Option<Problem>,
    /// Objects that the fleet does not own have the names of the fleet's objects.
    pub(crate) foreign: Option<String>,
    /// Whether another fleet serves the same model, so that this one has nothing to publish.
    pub(crate) is_surplus: bool,
    /// Whether the Deployment of a deleted fleet of the same name still exists.
    pub(crate) waits_for_deletion: bool,
    /// Whether the controller must write nothing except the status.
    pub(crate) blocks_writes: bool,
}

fn count(number: Option<i32>) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
}
