//! The fleets' Kubernetes objects: read from local copies, and applied where they differ from the
//! desired state.

mod covers;
mod mirror;
mod rivals;
mod state;
mod writes;

use std::{collections::BTreeSet, fmt::Debug};

use batchfleet_broker::QueueName;
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
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    runtime::watcher,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::debug;

use self::{
    mirror::{Mirror, Presence},
    rivals::{is_elder, is_rival, named, scaled_object, scales},
    state::Existing,
    writes::{Writes, stamped},
};
pub(crate) use self::{
    rivals::ServedVersions,
    state::{ClusterState, Conflicts, SAME_MODEL},
    writes::{Change, Written},
};
use crate::{
    crd::{ModelFleet, ModelFleetStatus},
    error::ControlError,
    objects::{FLEET, FleetObjects, mounted_keys, pod_monitor},
};

/// Access to the fleets and their objects in one namespace.
pub(crate) struct Cluster {
    fleets: Mirror<ModelFleet>,
    deployments: Mirror<Deployment>,
    autoscalers: Mirror<HorizontalPodAutoscaler>,
    budgets: Mirror<PodDisruptionBudget>,
    pods: Mirror<Pod>,
    monitors: Mirror<DynamicObject>,
    scalers: Mirror<DynamicObject>,
    writes: Writes,
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
        let (fleets, seventh) = built_in(client, namespace, every());
        let writes = Writes::default();
        let cluster =
            Self { fleets, deployments, autoscalers, budgets, pods, monitors, scalers, writes };
        let watches = async move {
            tokio::join!(first, second, third, fourth, fifth, sixth, seventh);
        };
        (cluster, watches.boxed())
    }

    /// Returns the objects of a fleet from the local copies.
    ///
    /// # Errors
    /// If a watch has failed, because its copy may be out of date.
    pub(crate) async fn state(
        &self,
        fleet: &ModelFleet,
        versions: &ServedVersions,
    ) -> Result<ClusterState, ControlError> {
        let name = fleet.name_any();
        self.fleets.is_installed().await?;
        self.deployments.is_installed().await?;
        self.autoscalers.is_installed().await?;
        self.budgets.is_installed().await?;
        self.pods.is_installed().await?;
        let has_monitors = self.monitors.is_installed().await?;
        let has_scalers = self.scalers.is_installed().await?;
        let mut scalers = self.scalers.all(|scaler| scales(scaler, fleet));
        scalers.retain(|_| has_scalers);
        let scaler = scalers.first().map(|it| format!("KEDA's ScaledObject {}", it.name_any()));
        let rivals = self.autoscalers.all(|autoscaler| is_rival(fleet, autoscaler));
        let rival = scaler.or_else(|| rivals.first().map(|rival| named(rival)));
        let elders = self.fleets.all(|other| is_elder(fleet, other, versions));
        Ok(ClusterState {
            deployment: Existing::of(fleet, self.deployments.get(&name)),
            autoscaler: Existing::of(fleet, self.autoscalers.get(&name)),
            budget: Existing::of(fleet, self.budgets.get(&name)),
            monitor: has_monitors.then(|| Existing::of(fleet, self.monitors.get(&name))),
            pods: self.pods.all(|pod| pod.labels().get(FLEET) == Some(&name)),
            rival,
            elder: elders.iter().map(|elder| elder.name_any()).min(),
        })
    }

    /// Returns the names of the models of all fleets.
    ///
    /// # Errors
    /// If the watch of the fleets has failed.
    pub(crate) async fn models(&self) -> Result<BTreeSet<String>, ControlError> {
        self.fleets.is_installed().await?;
        Ok(self.fleets.all(|_| true).iter().map(|fleet| fleet.model_name()).collect())
    }

    /// Returns the keys of a secret that the pods of all fleets mount.
    ///
    /// # Errors
    /// If the watch of the pods has failed.
    pub(crate) async fn mounted_keys(
        &self,
        secret: &str,
    ) -> Result<BTreeSet<String>, ControlError> {
        self.pods.is_installed().await?;
        let pods = self.pods.all(|_| true);
        let specs = pods.iter().filter_map(|pod| pod.spec.as_ref());
        Ok(specs.flat_map(|spec| mounted_keys(spec, secret)).collect())
    }

    /// Applies the desired objects. Objects that already match, and objects that the fleet does not
    /// own, are left unchanged. A write that fails does not prevent the others.
    pub(crate) async fn apply(
        &self,
        fleet: &ModelFleet,
        objects: FleetObjects,
        state: &ClusterState,
    ) -> Written {
        let FleetObjects { deployment, autoscaler, budget, monitor } = objects;
        let (writes, mut written) = (&self.writes, Written::default());
        let all = &mut written;
        let (deployment, budget) = (stamped(fleet, deployment), stamped(fleet, budget));
        let mut results = vec![
            writes.apply(&self.deployments, deployment, &state.deployment, all).await,
            writes.apply(&self.budgets, budget, &state.budget, all).await,
        ];
        if let Some(existing) = &state.monitor {
            let monitor = stamped(fleet, monitor);
            results.push(writes.apply(&self.monitors, monitor, existing, all).await);
        }
        results.push(match (autoscaler, &state.autoscaler) {
            (Some(autoscaler), existing) => {
                let autoscaler = stamped(fleet, autoscaler);
                writes.apply(&self.autoscalers, autoscaler, existing, all).await
            }
            (None, Existing::Owned(ours)) => {
                writes.delete(&self.autoscalers, "HorizontalPodAutoscaler", &**ours).await
            }
            (None, _) => Ok(()),
        });
        written.failures.extend(results.into_iter().filter_map(Result::err));
        written
    }

    /// Returns whether the namespace still has this fleet, as far as the local copy knows.
    pub(crate) fn has_fleet(&self, uid: &str) -> bool {
        !self.fleets.all(|fleet| fleet.metadata.uid.as_deref() == Some(uid)).is_empty()
    }

    /// Returns whether a fleet of the namespace serves this queue, and is not being deleted.
    pub(crate) fn has_fleet_of(&self, queue: &QueueName) -> bool {
        let serves = |fleet: &ModelFleet| {
            let version = fleet.spec.model.version.map(u64::from);
            fleet.metadata.deletion_timestamp.is_none()
                && fleet.model_name() == queue.model
                && version.is_none_or(|version| version == queue.version)
        };
        !self.fleets.all(serves).is_empty()
    }

    /// Sets the replicas of a fleet's Deployment where its autoscaler does not.
    pub(crate) async fn scale(&self, name: &str, replicas: u32) -> Result<(), ControlError> {
        self.writes.scale(&self.deployments, name, replicas).await
    }

    /// Returns the client that set the replicas of a fleet's Deployment last, if that is known.
    pub(crate) async fn scaler(&self, name: &str) -> Option<String> {
        writes::scaler(&self.deployments, name).await
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
        self.fleets.api().patch_status(&fleet.name_any(), &PatchParams::default(), &patch).await?;
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
