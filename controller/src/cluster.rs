//! The fleets' Kubernetes objects: read from local copies, and applied where they differ from the
//! desired state.

mod covers;
mod mirror;
mod rivals;
mod state;

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    hash::Hash,
    sync::Arc,
};

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
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
    runtime::watcher,
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::{debug, info};

pub(crate) use self::state::{ClusterState, Conflicts};
use self::{
    covers::{covers, difference},
    mirror::{Mirror, Presence},
    rivals::{is_elder, is_rival, named, scaled_object, scales},
    state::Existing,
};
use crate::{
    crd::{ModelFleet, ModelFleetStatus},
    error::ControlError,
    objects::{FLEET, FleetObjects, MANAGER, mounted_keys, pod_monitor},
};

/// Annotation with the controller version and the fleet generation that an object was made from.
/// When either changes, the object is applied again, which removes fields set by an earlier version
/// or generation.
const MADE_FROM: &str = "batchfleet.dev/made-from";

/// Access to the fleets and their objects in one namespace.
pub(crate) struct Cluster {
    fleets: Mirror<ModelFleet>,
    deployments: Mirror<Deployment>,
    autoscalers: Mirror<HorizontalPodAutoscaler>,
    budgets: Mirror<PodDisruptionBudget>,
    pods: Mirror<Pod>,
    monitors: Mirror<DynamicObject>,
    scalers: Mirror<DynamicObject>,
    applied: Applied,
}

/// The last patch that this process applied, by kind and name of the object. An object that differs
/// from it was changed by another client.
type Applied = Mutex<HashMap<(String, String), Value>>;

/// A change by another client that the controller has set back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Healed(pub(crate) String);

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
        let applied = Mutex::default();
        let cluster =
            Self { fleets, deployments, autoscalers, budgets, pods, monitors, scalers, applied };
        let watches = async move {
            tokio::join!(first, second, third, fourth, fifth, sixth, seventh);
        };
        (cluster, watches.boxed())
    }

    /// Returns the objects of a fleet from the local copies.
    ///
    /// # Errors
    /// If a watch has failed, because its copy may be out of date.
    pub(crate) async fn state(&self, fleet: &ModelFleet) -> Result<ClusterState, ControlError> {
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
        let elders = self.fleets.all(|other| is_elder(fleet, other));
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
    /// own, are left unchanged. Adds the changes by other clients that were set back to `healed`.
    pub(crate) async fn apply(
        &self,
        fleet: &ModelFleet,
        objects: FleetObjects,
        state: &ClusterState,
        healed: &mut Vec<Healed>,
    ) -> Result<(), ControlError> {
        let FleetObjects { deployment, autoscaler, budget, monitor } = objects;
        let applied = &self.applied;
        healed
            .extend(apply(&self.deployments, applied, fleet, deployment, &state.deployment).await?);
        healed.extend(apply(&self.budgets, applied, fleet, budget, &state.budget).await?);
        if let Some(existing) = &state.monitor {
            healed.extend(apply(&self.monitors, applied, fleet, monitor, existing).await?);
        }
        match (autoscaler, &state.autoscaler) {
            (Some(autoscaler), existing) => {
                healed
                    .extend(apply(&self.autoscalers, applied, fleet, autoscaler, existing).await?);
            }
            (None, Existing::Owned(ours)) => delete(&self.autoscalers, applied, ours).await?,
            (None, _) => {}
        }
        Ok(())
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

async fn apply<K>(
    mirror: &Mirror<K>,
    applied: &Applied,
    fleet: &ModelFleet,
    mut desired: K,
    existing: &Existing<K>,
) -> Result<Option<Healed>, ControlError>
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
    let mut patch = serde_json::to_value(&desired)?;
    let kind = patch["kind"].as_str().unwrap_or_default().to_owned();
    let key = (kind, name);
    let last = applied.lock().get(&key).cloned();
    let (kind, name) = (&key.0, &key.1);
    // Another client has changed an object that differs from what the controller applied last. The
    // controller itself may want something else since then.
    let healed = match &existing {
        Existing::Foreign => return Ok(None),
        Existing::Absent => {
            last.map(|_| format!("the {kind} {name} was deleted and is created again"))
        }
        Existing::Owned(object) => {
            let object = serde_json::to_value(&**object)?;
            if covers(&object, &patch) {
                applied.lock().insert(key, patch);
                return Ok(None);
            }
            let field = last.and_then(|last| difference(&object, &last));
            field.map(|field| format!("{field} of the {kind} {name} was changed and is set back"))
        }
    };
    let author = match &healed {
        Some(_) => author(mirror, name).await,
        None => None,
    };
    let sent = patch.clone();
    // With the uid, the patch fails if another object of the same name has replaced this one.
    if let Some(uid) = existing.owned().and_then(ResourceExt::uid) {
        patch["metadata"]["uid"] = uid.into();
    }
    // Forced, so that the controller's values win even if another client has set the same fields.
    let params = PatchParams::apply(MANAGER).force();
    let written = mirror.api().patch(name, &params, &Patch::Apply(&patch)).await?;
    mirror.wrote(name, existing.owned(), Some(written));
    info!(kind, name, "applied object");
    applied.lock().insert(key.clone(), sent);
    let by = author.map_or_else(String::new, |author| format!(", by {author}"));
    Ok(healed.map(|change| Healed(format!("{change}{by}"))))
}

/// Returns the name of the client that changed an object last, as it names itself to the API server.
async fn author<K>(mirror: &Mirror<K>, name: &str) -> Option<String>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let object = mirror.api().get_opt(name).await.ok()??;
    let writes = object.managed_fields().iter();
    let others = writes.filter(|write| {
        write.manager.as_deref() != Some(MANAGER) && write.subresource.as_deref() != Some("status")
    });
    let last = others.max_by_key(|write| write.time.as_ref().map(|time| time.0))?;
    last.manager.clone()
}

/// Deletes an object, unless it is already deleted or has been replaced by another object of the
/// same name.
async fn delete<K>(mirror: &Mirror<K>, applied: &Applied, object: &K) -> Result<(), ControlError>
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
    applied.lock().retain(|(_, applied), _| *applied != name);
    mirror.wrote(&name, Some(object), None);
    Ok(())
}
