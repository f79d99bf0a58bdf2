//! Detects autoscalers that scale a fleet's Deployment but do not belong to the fleet, and older
//! fleets of the same model. Pure.

use std::collections::HashMap;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::{
    ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};

use super::state::{is_left, is_owned};
use crate::crd::ModelFleet;

/// The API resource of KEDA's `ScaledObject`.
pub(super) fn scaled_object() -> ApiResource {
    let kind = GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject");
    ApiResource::from_gvk_with_plural(&kind, "scaledobjects")
}

/// Returns whether this autoscaler scales the fleet's Deployment but does not belong to the fleet.
pub(super) fn is_rival(fleet: &ModelFleet, autoscaler: &HorizontalPodAutoscaler) -> bool {
    let target = autoscaler.spec.as_ref().map(|spec| &spec.scale_target_ref);
    let name = fleet.name_any();
    target.is_some_and(|target| target.kind == "Deployment" && target.name == name)
        && !is_owned(fleet, autoscaler)
        && !is_left(fleet, autoscaler)
}

/// Returns whether this `ScaledObject` scales the fleet's Deployment.
pub(super) fn scales(scaler: &DynamicObject, fleet: &ModelFleet) -> bool {
    let target = &scaler.data["spec"]["scaleTargetRef"];
    target["name"] == fleet.name_any()
        && target["kind"].as_str().unwrap_or("Deployment") == "Deployment"
}

/// Names an autoscaler for users: the `ScaledObject` that made it, else the autoscaler itself.
pub(super) fn named(autoscaler: &HorizontalPodAutoscaler) -> String {
    let mut owners = autoscaler.owner_references().iter();
    match owners.find(|owner| owner.kind == "ScaledObject") {
        Some(owner) => format!("KEDA's ScaledObject {}", owner.name),
        None => format!("the HorizontalPodAutoscaler {}", autoscaler.name_any()),
    }
}

/// The newest version that the workers of each fleet serve, by the uid of the fleet, as far as it is
/// known.
pub(crate) type ServedVersions = HashMap<String, u64>;

/// Returns whether `other` is an older fleet of the same model and version. The version is that of the
/// spec, else the one that the workers of the fleet serve. Of two fleets of the same age, the one with
/// the first name counts as older.
pub(super) fn is_elder(fleet: &ModelFleet, other: &ModelFleet, versions: &ServedVersions) -> bool {
    let served = |fleet: &ModelFleet| {
        let observed = || fleet.uid().and_then(|uid| versions.get(&uid).copied());
        (fleet.model_name(), fleet.spec.model.version.map(u64::from).or_else(observed))
    };
    let follows_model = |fleet: &ModelFleet| fleet.spec.model.version.is_none();
    let age = |fleet: &ModelFleet| (fleet.creation_timestamp(), fleet.name_any());
    // Two fleets without a version in the spec follow the same folder of the repository.
    let follow_the_same = follows_model(fleet) && follows_model(other);
    other.uid() != fleet.uid()
        && other.metadata.deletion_timestamp.is_none()
        && other.model_name() == fleet.model_name()
        && (follow_the_same || served(other) == served(fleet))
        && age(other) < age(fleet)
}
