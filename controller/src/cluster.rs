//! The fleets' Kubernetes objects: read from local copies, and applied where they differ from the
//! desired state.

mod covers;
mod mirror;
mod rivals;
mod state;

use std::{fmt::Debug, hash::Hash, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
    runtime::watcher,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::{debug, info};

pub(crate) use self::state::{ClusterState, Conflicts, Existing};
use self::{
    covers::covers,
    mirror::{Mirror, Presence},
    rivals::{is_rival, scaled_object, scales},
};
use crate::{
    crd::{ModelFleet, ModelFleetStatus},
    error::ControlError,
    objects::{FLEET, FleetObjects, MANAGER, pod_monitor},
};

/// Annotation with the controller version and the fleet generation that an object was made from.
/// When either changes, the object is applied again, which removes fields set by an earlier version
/// or generation.
const MADE_FROM: &str = "batchfleet.dev/made-from";

/// Access to the fleets and their objects in one namespace.
pub(crate) struct Cluster {
    fleets: Api<ModelFleet>,
    deployments: Mirror<Deployment>,
    autoscalers: Mirror<HorizontalPodAutoscaler>,
    budgets: Mirror<PodDisruptionBudget>,
    pods: Mirror<Pod>,
    monitors: Mirror<DynamicObject>,
    scalers: Mirror<DynamicObject>,
}

impl Cluster {
    /// Creates the cluster, and the task that keeps its local copies current until the task is
    /// dropped.
    pub(crate) fn new(client: &Client, namespace: &str) -> (Self, BoxFuture<'static, ()>) {
        let every = watcher::Config::default;
        let workers = every().labels(FLEET);
        let (deployments, first) = built_in(client, namespace, every());
        let (autoscalers, second) = built_in(client, namespace, every());
        let (budgets, third) = built_in(client, namespace, every());
        let (pods, fourth) = built_in(client, namespace, workers);
        let (monitors, fifth) = installed(client, namespace, pod_monitor());
        let (scalers, sixth) = installed(client, namespace, scaled_object());
        let fleets = Api::namespaced(client.clone(), namespace);
        let cluster = Self { fleets, deployments, autoscalers, budgets, pods, monitors, scalers };
        let watches = async move {
            tokio::join!(first, second, third, fourth, fifth, sixth);
        };
        (cluster, watches.boxed())
    }

    /// Returns the objects of a fleet from the local copies.
    ///
    /// # Errors
    /// If a watch has failed, because its copy may be out of date.
    pub(crate) async fn state(&self, fleet: &ModelFleet) -> Result<ClusterState, ControlError> {
        let name = fleet.name_any();
        self.deployments.is_installed().await?;
        self.autoscalers.is_installed().await?;
        self.budgets.is_installed().await?;
        self.pods.is_installed().await?;
        let has_monitors = self.monitors.is_installed().await?;
        let has_scalers = self.scalers.is_installed().await?;
        let rivals = self.autoscalers.all(|autoscaler| is_rival(fleet, autoscaler));
        let mut rival =
            rivals.first().map(|rival| format!("the HorizontalPodAutoscaler {}", rival.name_any()));
        if rival.is_none() && has_scalers {
            let scalers = self.scalers.all(|scaler| scales(scaler, fleet));
            rival = scalers.first().map(|it| format!("KEDA's ScaledObject {}", it.name_any()));
        }
        Ok(ClusterState {
            deployment: Existing::of(fleet, self.deployments.get(&name)),
            autoscaler: Existing::of(fleet, self.autoscalers.get(&name)),
            budget: Existing::of(fleet, self.budgets.get(&name)),
            monitor: has_monitors.then(|| Existing::of(fleet, self.monitors.get(&name))),
            pods: self.pods.all(|pod| pod.labels().get(FLEET) == Some(&name)),
            rival,
        })
    }

    /// Applies the desired objects. Objects that already match, and objects that the fleet does not
    /// own, are left unchanged.
    pub(crate) async fn apply(
        &self,
        fleet: &ModelFleet,
        objects: FleetObjects,
        state: &ClusterState,
    ) -> Result<(), ControlError> {
        let FleetObjects { deployment, autoscaler, budget, monitor } = objects;
        apply(&self.deployments, fleet, deployment, &state.deployment).await?;
        apply(&self.budgets, fleet, budget, &state.budget).await?;
        if let Some(existing) = &state.monitor {
            apply(&self.monitors, fleet, monitor, existing).await?;
        }
        match (autoscaler, &state.autoscaler) {
            (Some(autoscaler), existing) => {
                apply(&self.autoscalers, fleet, autoscaler, existing).await
            }
            (None, Existing::Owned(ours)) => delete(&self.autoscalers, ours).await,
            (None, _) => Ok(()),
        }
    }

    /// Sets the replicas of a fleet's Deployment from zero or to zero, which an autoscaler cannot
    /// do.
    pub(crate) async fn scale(&self, name: &str, replicas: u32) -> Result<(), ControlError> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let before = self.deployments.get(name);
        self.deployments.api().patch_scale(name, &PatchParams::default(), &patch).await?;
        let mut scaled = before.as_deref().cloned();
        if let Some(spec) = scaled.as_mut().and_then(|deployment| deployment.spec.as_mut()) {
            spec.replicas = i32::try_from(replicas).ok();
        }
        self.deployments.wrote(name, before.as_deref(), scaled);
        Ok(())
    }

    /// Annotates pods. Failures are harmless, because the next turn retries.
    pub(crate) async fn annotate(&self, annotations: Vec<(String, Value)>) {
        for (name, annotations) in annotations {
            let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
            let before = self.pods.get(&name);
            match self.pods.api().patch(&name, &PatchParams::default(), &patch).await {
                Ok(pod) => self.pods.wrote(&name, before.as_deref(), Some(pod)),
                Err(error) => debug!(pod = name, %error, "failed to annotate pod"),
            }
        }
    }

    /// Writes the status of a fleet if it has changed.
    pub(crate) async fn report(
        &self,
        fleet: &ModelFleet,
        status: &ModelFleetStatus,
    ) -> Result<(), ControlError> {
        if fleet.status.as_ref() == Some(status) {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"status": status}));
        self.fleets.patch_status(&fleet.name_any(), &PatchParams::default(), &patch).await?;
        Ok(())
    }
}

fn built_in<K>(
    client: &Client,
    namespace: &str,
    config: watcher::Config,
) -> (Mirror<K>, impl Future<Output = ()> + Send + use<K>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    Mirror::new(Api::namespaced(client.clone(), namespace), (), Presence::Required, config)
}

fn installed(
    client: &Client,
    namespace: &str,
    kind: ApiResource,
) -> (Mirror<DynamicObject>, impl Future<Output = ()> + Send + use<>) {
    let api = Api::namespaced_with(client.clone(), namespace, &kind);
    Mirror::new(api, kind, Presence::Optional, watcher::Config::default())
}

async fn apply<K>(
    mirror: &Mirror<K>,
    fleet: &ModelFleet,
    mut desired: K,
    existing: &Existing<K>,
) -> Result<(), ControlError>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let name = desired.name_any();
    let generation = fleet.metadata.generation.unwrap_or_default();
    let made_from = format!("{}/{generation}", env!("CARGO_PKG_VERSION"));
    desired.annotations_mut().insert(MADE_FROM.to_owned(), made_from);
    let existing = match existing {
        // The copy may lag behind. Ask the API server, so that an object which another client has
        // just created is not taken over.
        Existing::Absent => Existing::of(fleet, mirror.api().get_opt(&name).await?.map(Arc::new)),
        existing => existing.clone(),
    };
    // With the uid, the patch fails if another object of the same name has replaced this one.
    desired.meta_mut().uid = existing.owned().and_then(ResourceExt::uid);
    let patch = serde_json::to_value(&desired)?;
    match &existing {
        Existing::Foreign => return Ok(()),
        Existing::Owned(object) if covers(&serde_json::to_value(&**object)?, &patch) => {
            return Ok(());
        }
        Existing::Owned(_) | Existing::Absent => {}
    }
    // Forced, so that the controller's values win even if another client has set the same fields.
    let params = PatchParams::apply(MANAGER).force();
    let applied = mirror.api().patch(&name, &params, &Patch::Apply(&patch)).await?;
    mirror.wrote(&name, existing.owned(), Some(applied));
    info!(kind = %patch["kind"], name, "applied object");
    Ok(())
}

/// Deletes an object, unless it is already deleted or has been replaced by another object of the
/// same name.
async fn delete<K>(mirror: &Mirror<K>, object: &K) -> Result<(), ControlError>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let name = object.name_any();
    let same = Preconditions { uid: object.uid(), resource_version: None };
    let params = DeleteParams::default().preconditions(same);
    match mirror.api().delete(&name, &params).await {
        Err(kube::Error::Api(refusal)) if refusal.code == 404 => {}
        deleted => drop(deleted?),
    }
    mirror.wrote(&name, Some(object), None);
    Ok(())
}
