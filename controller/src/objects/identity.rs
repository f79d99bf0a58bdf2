//! Names, labels, owner and selector of a fleet's objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Resource, ResourceExt, api::ObjectMeta};

use crate::crd::ModelFleet;

/// Label with the name of the fleet to which an object or a pod belongs.
pub(crate) const FLEET: &str = "batchfleet.dev/fleet";
/// Name of the controller as field manager, event source and lease.
pub(crate) const MANAGER: &str = "batchfleet-controller";

impl ModelFleet {
    /// Returns the name of the model in the repository and in requests.
    pub(crate) fn model_name(&self) -> String {
        self.spec.model.name.clone().unwrap_or_else(|| self.name_any())
    }
}

/// Returns the metadata of an object of the fleet. The fleet owns the object, so Kubernetes deletes
/// the object together with the fleet.
pub(super) fn metadata(fleet: &ModelFleet) -> ObjectMeta {
    ObjectMeta {
        name: fleet.metadata.name.clone(),
        namespace: fleet.metadata.namespace.clone(),
        labels: Some(labels(fleet)),
        owner_references: fleet.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Returns the labels of all objects and pods of a fleet.
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

/// Returns a selector for the pods of a fleet.
pub(super) fn selector(fleet: &ModelFleet) -> LabelSelector {
    let name = (FLEET.to_owned(), fleet.name_any());
    LabelSelector { match_labels: Some(BTreeMap::from([name])), match_expressions: None }
}

/// Converts a count to the signed integer of Kubernetes APIs.
pub(super) fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
