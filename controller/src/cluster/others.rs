//! APIs that others install and that may be there or not: KEDA's, and the Prometheus operator's.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use tokio::{sync::Mutex, time::Instant};
use tracing::debug;

/// They come and go, but not often.
const ASK_AGAIN: Duration = Duration::from_mins(1);

/// Which of them there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Installed {
    /// KEDA's `ScaledObject`.
    pub(crate) scaled_objects: bool,
    /// The Prometheus operator's `PodMonitor`.
    pub(crate) pod_monitors: bool,
}

/// Remembers for a minute which of them there are.
#[derive(Debug, Default)]
pub(crate) struct Others(Mutex<Option<(Instant, Installed)>>);

impl Others {
    /// Which of them there are; one that cannot be found out about is not.
    pub(crate) async fn installed(&self, client: &Client) -> Installed {
        let mut known = self.0.lock().await;
        if let Some((_, installed)) = known.filter(|(at, _)| at.elapsed() < ASK_AGAIN) {
            return installed;
        }
        let installed = Installed {
            scaled_objects: is_served(client, &scaled_object()).await,
            pod_monitors: is_served(client, &pod_monitor()).await,
        };
        *known = Some((Instant::now(), installed));
        installed
    }
}

async fn is_served(client: &Client, kind: &ApiResource) -> bool {
    match client.list_api_group_resources(&kind.api_version).await {
        Ok(list) => list.resources.iter().any(|resource| resource.name == kind.plural),
        Err(error) => {
            debug!(api = kind.api_version, %error, "taken for not installed");
            false
        }
    }
}

pub(crate) fn scaled_object() -> ApiResource {
    let kind = GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject");
    ApiResource::from_gvk_with_plural(&kind, "scaledobjects")
}

pub(crate) fn pod_monitor() -> ApiResource {
    let kind = GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor");
    ApiResource::from_gvk_with_plural(&kind, "podmonitors")
}

/// KEDA's scaler of this Deployment, if there is one that we may see.
pub(super) async fn scaler(
    client: &Client,
    namespace: &str,
    deployment: &str,
) -> Result<Option<String>, kube::Error> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &scaled_object());
    let scalers = match api.list(&ListParams::default()).await {
        Err(kube::Error::Api(refusal)) if matches!(refusal.code, 403 | 404) => {
            debug!(%refusal, "cannot see who else scales");
            return Ok(None);
        }
        scalers => scalers?,
    };
    let targets = |scaler: &DynamicObject| {
        let target = &scaler.data["spec"]["scaleTargetRef"];
        target["name"] == deployment
            && target["kind"].as_str().unwrap_or("Deployment") == "Deployment"
    };
    Ok(scalers.items.into_iter().find(targets).and_then(|scaler| scaler.metadata.name))
}
