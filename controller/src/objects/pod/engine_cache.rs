//! The volume where the workers of a fleet keep the engines that TensorRT builds.

use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Volume, VolumeMount};

use super::parts;
use crate::crd::ModelFleet;

const ENGINES: &str = "engines";
const ENGINES_PATH: &str = "/engines";

/// Returns the worker's flag.
pub(super) fn setting(fleet: &ModelFleet) -> Option<String> {
    fleet.spec.worker.engine_cache.as_ref().map(|_| format!("--engine-cache={ENGINES_PATH}"))
}

/// Returns the volume.
pub(super) fn volume(fleet: &ModelFleet) -> Option<Volume> {
    let cache = fleet.spec.worker.engine_cache.as_ref()?;
    Some(Volume {
        name: ENGINES.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: cache.claim_name.clone(),
            read_only: None,
        }),
        ..Volume::default()
    })
}

/// Returns the worker's mount of the volume.
pub(super) fn mount(fleet: &ModelFleet) -> Option<VolumeMount> {
    let cache = fleet.spec.worker.engine_cache.as_ref()?;
    let sub_path = cache.sub_path.clone();
    Some(VolumeMount { sub_path, ..parts::mount(ENGINES, ENGINES_PATH, None) })
}
