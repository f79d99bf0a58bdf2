//! Small parts of a pod that several containers and volumes share.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, KeyToPath, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use crate::crd::{Amount, Resources};

/// Readable by the pod's group, which the worker runs as.
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

/// A volume with every key of a secret as a file.
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

/// A volume with these keys of a secret, each as the file named beside it.
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

/// What the restricted pod security standard asks of each container.
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

/// `None` instead of an empty value: the API server leaves empty fields out, and a field that was
/// sent but is absent in the stored object would count as a difference.
pub(super) fn some<T>(value: T, is_empty: impl Fn(&T) -> bool) -> Option<T> {
    (!is_empty(&value)).then_some(value)
}
