//! What the objects of a fleet have in common: names, labels, owner, selector.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Resource, ResourceExt, api::ObjectMeta};

use crate::crd::ModelFleet;

/// The label that names the fleet of an object or a pod.
pub(crate) const FLEET: &str = "batchfleet.dev/fleet";
/// The controller's name as field manager, event source and holder of the lease.
pub(crate) const MANAGER: &str = "batchfleet-controller";

impl ModelFleet {
    /// The model's name in the repository and in requests.
    pub(crate) fn model_name(&self) -> String {
        self.spec.model.name.clone().unwrap_or_else(|| self.name_any())
    }
}

/// The metadata of each object of a fleet. Kubernetes deletes the object together with the fleet,
/// which owns it.
pub(super) fn metadata(fleet: &ModelFleet) -> ObjectMeta {
    ObjectMeta {
        name: fleet.metadata.name.clone(),
        namespace: fleet.metadata.namespace.clone(),
        labels: Some(labels(fleet)),
        owner_references: fleet.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The labels of each object and each pod of a fleet.
pub(super) fn labels(fleet: &ModelFleet) -> BTreeMap<String, String> {
    let label = |key: &str, value: String| (key.to_owned(), value);
    BTreeMap::from([
        label("app.kubernetes.io/name", "batchfleet-worker".to_owned()),
        label("app.kubernetes.io/instance", fleet.name_any()),
        label("app.kubernetes.io/component", "worker".to_owned()),
        label("app.kubernetes.io/managed-by", MANAGER.to_owned()),
        label(FLEET, fleet.name_any()),
    ])
}

/// Selects the pods of a fleet.
pub(super) fn selector(fleet: &ModelFleet) -> LabelSelector {
    let name = (FLEET.to_owned(), fleet.name_any());
    LabelSelector { match_labels: Some(BTreeMap::from([name])), match_expressions: None }
}

/// A count as Kubernetes stores it, in a signed integer.
pub(super) fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
