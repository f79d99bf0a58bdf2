//! A fleet's pods: listed, and annotated.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tracing::debug;

use super::Cluster;
use crate::{crd::ModelFleet, error::ControlError, objects::FLEET};

impl Cluster<'_> {
    /// The pods of a fleet.
    pub(super) async fn pods(&self, fleet: &ModelFleet) -> Result<Vec<Pod>, ControlError> {
        let ours = ListParams::default().labels(&format!("{FLEET}={}", fleet.name_any()));
        Ok(self.api::<Pod>().list(&ours).await?.items)
    }

    /// Writes annotations on pods. Nobody's work depends on it: one that cannot be written is tried
    /// again at the next turn.
    pub(crate) async fn annotate(&self, marks: Vec<(String, Value)>) {
        for (pod, annotations) in marks {
            let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
            let patched = self.api::<Pod>().patch(&pod, &PatchParams::default(), &patch).await;
            if let Err(error) = patched {
                debug!(pod, %error, "not annotated");
            }
        }
    }
}
