//! The model in a worker's pod: name, version, source and path.

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, ImageVolumeSource, PersistentVolumeClaimVolumeSource, Volume,
    VolumeMount,
};

use super::parts::{self, quantity, secret, security, some};
use crate::crd::{ModelFleet, ModelSource};

const MODELS: &str = "models";
const MODELS_PATH: &str = "/models";
const OPTIONS: &str = "store-options";
const OPTIONS_PATH: &str = "/etc/batchfleet/store";

/// Returns the worker flags that describe the model.
pub(super) fn settings(fleet: &ModelFleet) -> Vec<String> {
    let model = &fleet.spec.model;
    let version = model.version.map_or_else(String::new, |version| format!(":{version}"));
    let digest = model.sha256.as_ref().map_or_else(String::new, |hex| format!("@sha256:{hex}"));
    let mut settings = vec![format!("--model={}{version}{digest}", fleet.model_name())];
    let ModelSource::ObjectStore(store) = &model.source else {
        settings.push(format!("--model-repository={MODELS_PATH}"));
        return settings;
    };
    settings.push(format!("--model-repository={}", store.url));
    settings.push(format!("--model-cache={MODELS_PATH}"));
    if store.options_secret.is_some() {
        settings.push(format!("--model-repository-options={OPTIONS_PATH}"));
    }
    settings
}

/// Returns the volume of the model repository, or of the cache for a model from an object store.
pub(super) fn volume(source: &ModelSource) -> Volume {
    let volume = Volume { name: MODELS.to_owned(), ..Volume::default() };
    let empty = |size_limit| EmptyDirVolumeSource { size_limit, medium: None };
    match source {
        ModelSource::PersistentVolumeClaim(claim) => Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.claim_name.clone(),
                read_only: Some(true),
            }),
            ..volume
        },
        ModelSource::Image(image) => Volume {
            image: Some(ImageVolumeSource {
                reference: Some(image.reference.clone()),
                pull_policy: image.pull_policy.clone(),
            }),
            ..volume
        },
        ModelSource::EmptyDir(folder) => {
            Volume { empty_dir: Some(empty(folder.size_limit.as_ref().map(quantity))), ..volume }
        }
        ModelSource::ObjectStore(store) => {
            Volume { empty_dir: Some(empty(store.size_limit.as_ref().map(quantity))), ..volume }
        }
    }
}

/// Returns the worker's mount of the model volume; writable only if the volume is a cache.
pub(super) fn mount(fleet: &ModelFleet) -> VolumeMount {
    let source = &fleet.spec.model.source;
    let sub_path = match source {
        ModelSource::PersistentVolumeClaim(claim) => claim.sub_path.clone(),
        ModelSource::Image(image) => image.sub_path.clone(),
        ModelSource::EmptyDir(_) | ModelSource::ObjectStore(_) => None,
    };
    let read_only = !matches!(source, ModelSource::ObjectStore(_));
    VolumeMount { sub_path, ..parts::mount(MODELS, MODELS_PATH, Some(read_only)) }
}

/// Returns the volume with the object store's options, taken from a secret.
pub(super) fn options_volume(fleet: &ModelFleet) -> Option<Volume> {
    options_secret(fleet).map(|name| secret(OPTIONS, name))
}

/// Returns the worker's mount of the object store's options.
pub(super) fn options_mount(fleet: &ModelFleet) -> Option<VolumeMount> {
    options_secret(fleet).map(|_| parts::mount(OPTIONS, OPTIONS_PATH, Some(true)))
}

fn options_secret(fleet: &ModelFleet) -> Option<&str> {
    match &fleet.spec.model.source {
        ModelSource::ObjectStore(store) => store.options_secret.as_deref(),
        _ => None,
    }
}

/// Returns the init container that fills an `emptyDir` before the worker starts.
pub(super) fn filler(fleet: &ModelFleet) -> Option<Container> {
    let ModelSource::EmptyDir(folder) = &fleet.spec.model.source else { return None };
    Some(Container {
        name: "fill".to_owned(),
        image: Some(folder.image.clone()),
        command: some(folder.command.clone(), Vec::is_empty),
        args: some(folder.args.clone(), Vec::is_empty),
        security_context: Some(security()),
        termination_message_policy: Some(super::LAST_WORDS.to_owned()),
        volume_mounts: Some(vec![parts::mount(MODELS, MODELS_PATH, Some(false))]),
        ..Container::default()
    })
}
