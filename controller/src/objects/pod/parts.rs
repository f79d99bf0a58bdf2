//! Small parts of a pod that several containers and volumes share.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, KeyToPath, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use crate::crd::{Amount, Resources};

/// File mode of secrets: readable by the group of the pod, which the worker runs as.
const SECRET_MODE: i32 = 0o440;

/// Mounts a volume at a path.
pub(super) fn mount(volume: &str, path: &str, read_only: Option<bool>) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    }
}

/// Returns a volume with every key of a secret as a file.
pub(super) fn secret(volume: &str, name: &str) -> Volume {
    Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.to_owned()),
            default_mode: Some(SECRET_MODE),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Returns a volume with selected keys of a secret, each as a file with the given name.
pub(super) fn secret_files<'a>(
    volume: &str,
    name: &str,
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Volume {
    let file =
        |(key, path): (&str, &str)| KeyToPath { key: key.into(), path: path.into(), mode: None };
    let mut volume = secret(volume, name);
    if let Some(source) = &mut volume.secret {
        source.items = Some(files.into_iter().map(file).collect());
    }
    volume
}

/// Returns the security context that the restricted pod security standard requires.
pub(super) fn security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

pub(super) fn quantity(amount: &Amount) -> Quantity {
    Quantity(match amount {
        Amount::Int(number) => number.to_string(),
        Amount::String(text) => text.clone(),
    })
}

pub(super) fn quantities(amounts: &Resources) -> BTreeMap<String, Quantity> {
    amounts.iter().map(|(name, amount)| (name.clone(), quantity(amount))).collect()
}

/// Returns `None` for an empty value. The API server omits empty fields, so an empty field in the
/// desired object would always differ from the stored object.
pub(super) fn some<T>(value: T, is_empty: impl Fn(&T) -> bool) -> Option<T> {
    (!is_empty(&value)).then_some(value)
}
