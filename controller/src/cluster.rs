//! A fleet's objects in the cluster: read, and applied where they differ from what they should be.

mod covers;
mod others;
mod pods;

use std::fmt::Debug;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use self::covers::covers;
pub(crate) use self::others::{Installed, Others, pod_monitor};
use crate::{
    crd::{ModelFleet, ModelFleetStatus, ScalingMode},
    error::ControlError,
    objects::{MANAGER, Objects},
};

/// What an object was made from: the program's version and the fleet's generation. What is in
/// neither of two specs but was in an earlier one is found by this.
const MADE_FROM: &str = "batchfleet.dev/made-from";

/// The cluster, as far as one fleet is concerned.
pub(crate) struct Cluster<'a> {
    pub(crate) client: &'a Client,
    pub(crate) namespace: &'a str,
    pub(crate) installed: Installed,
}

/// What stands where an object of a fleet belongs.
#[derive(Debug)]
pub(crate) enum Place<K> {
    /// Nothing.
    Free,
    /// The fleet's own.
    Ours(K),
    /// Somebody else's, to be left alone.
    Foreign,
}

impl<K: Resource> Place<K> {
    fn of(fleet: &ModelFleet, found: Option<K>) -> Self {
        match found {
            None => Self::Free,
            Some(found) if is_owned(fleet, &found) => Self::Ours(found),
            Some(_) => Self::Foreign,
        }
    }
}

impl<K> Place<K> {
    fn ours(&self) -> Option<&K> {
        if let Self::Ours(object) = self { Some(object) } else { None }
    }

    fn is_foreign(&self) -> bool {
        matches!(self, Self::Foreign)
    }
}

fn is_owned(fleet: &ModelFleet, object: &impl Resource) -> bool {
    let uid = fleet.uid();
    object.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
}

/// A fleet's objects, as they stand.
pub(crate) struct Standing {
    pub(crate) deployment: Place<Deployment>,
    pub(crate) autoscaler: Place<HorizontalPodAutoscaler>,
    pub(crate) budget: Place<PodDisruptionBudget>,
    pub(crate) monitor: Place<DynamicObject>,
    /// The workers' pods, those that end included.
    pub(crate) pods: Vec<Pod>,
    /// Somebody else who sets the number of the same workers, by kind and name.
    pub(crate) rival: Option<String>,
}

impl Standing {
    /// Workers that were ordered; none if there is no Deployment.
    pub(crate) fn ordered(&self) -> u32 {
        let spec = self.deployment.ours().and_then(|deployment| deployment.spec.as_ref());
        spec.map_or(0, |spec| count(spec.replicas.or(Some(1))))
    }

    /// Workers that are ready.
    pub(crate) fn ready(&self) -> u32 {
        let status = self.deployment.ours().and_then(|deployment| deployment.status.as_ref());
        count(status.and_then(|status| status.ready_replicas))
    }

    /// What keeps a fleet that is scaled in this way from being what it should be.
    pub(crate) fn trouble(&self, mode: ScalingMode) -> Trouble {
        let is_hpa = mode == ScalingMode::Hpa;
        let autoscaler = "the HorizontalPodAutoscaler of the fleet's name".to_owned();
        let foreign = (is_hpa && self.autoscaler.is_foreign()).then_some(autoscaler);
        let rival = self.rival.clone().filter(|_| mode != ScalingMode::External).or(foreign);
        let kinds = [
            ("Deployment", self.deployment.is_foreign()),
            ("PodDisruptionBudget", self.budget.is_foreign()),
            ("PodMonitor", self.monitor.is_foreign()),
        ];
        let kinds: Vec<_> = kinds.iter().filter(|(_, foreign)| *foreign).map(|(k, _)| *k).collect();
        Trouble {
            scaling: rival.map(|rival| {
                format!(
                    "{rival} is not this fleet's, and sets the number of workers or stands in the \
                     way of what does: delete it, or choose scaling.mode external"
                )
            }),
            foreign: (!kinds.is_empty()).then(|| {
                format!(
                    "{} of the fleet's name is not this fleet's, and is left alone: delete it, or \
                     give the fleet another name",
                    kinds.join(" and ")
                )
            }),
            hands_off: self.deployment.is_foreign()
                || self.rival.is_some() && mode != ScalingMode::External,
        }
    }
}

/// What keeps a fleet from being what it should be, in sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Somebody else sets the number of workers.
    pub(crate) scaling: Option<String>,
    /// Objects of others stand where the fleet's belong.
    pub(crate) foreign: Option<String>,
    /// Whether nothing may be written but the status.
    pub(crate) hands_off: bool,
}

impl Cluster<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    fn monitors(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), self.namespace, &others::pod_monitor())
    }

    /// The objects of a fleet, as they stand.
    pub(crate) async fn look(&self, fleet: &ModelFleet) -> Result<Standing, ControlError> {
        let name = fleet.name_any();
        let autoscalers =
            self.api::<HorizontalPodAutoscaler>().list(&ListParams::default()).await?.items;
        let targets = |autoscaler: &&HorizontalPodAutoscaler| {
            let target = autoscaler.spec.as_ref().map(|spec| &spec.scale_target_ref);
            let hits = target.is_some_and(|t| t.kind == "Deployment" && t.name == name);
            hits && !is_owned(fleet, *autoscaler)
        };
        let mut rival = autoscalers
            .iter()
            .find(targets)
            .map(|rival| format!("the HorizontalPodAutoscaler {}", rival.name_any()));
        if rival.is_none() && self.installed.scaled_objects {
            let scaler = others::scaler(self.client, self.namespace, &name).await?;
            rival = scaler.map(|scaler| format!("KEDA's ScaledObject {scaler}"));
        }
        let autoscaler = autoscalers.into_iter().find(|autoscaler| autoscaler.name_any() == name);
        let monitor =
            if self.installed.pod_monitors { self.monitors().get_opt(&name).await? } else { None };
        Ok(Standing {
            deployment: Place::of(fleet, self.api().get_opt(&name).await?),
            autoscaler: Place::of(fleet, autoscaler),
            budget: Place::of(fleet, self.api().get_opt(&name).await?),
            monitor: Place::of(fleet, monitor),
            pods: self.pods(fleet).await?,
            rival,
        })
    }

    /// Makes what stands what it should be; what already is, or is somebody else's, is left alone.
    pub(crate) async fn apply(
        &self,
        fleet: &ModelFleet,
        objects: Objects,
        standing: &Standing,
    ) -> Result<(), ControlError> {
        let generation = fleet.metadata.generation.unwrap_or_default();
        let made_from = format!("{}/{generation}", env!("CARGO_PKG_VERSION"));
        let Objects { deployment, autoscaler, budget, monitor } = objects;
        apply(self.api(), deployment, &standing.deployment, &made_from).await?;
        apply(self.api(), budget, &standing.budget, &made_from).await?;
        if self.installed.pod_monitors {
            apply(self.monitors(), monitor, &standing.monitor, &made_from).await?;
        }
        match (autoscaler, &standing.autoscaler) {
            (Some(wanted), stands) => apply(self.api(), wanted, stands, &made_from).await,
            (None, Place::Ours(ours)) => {
                let api = self.api::<HorizontalPodAutoscaler>();
                gone(api.delete(&ours.name_any(), &DeleteParams::default()).await)
            }
            (None, _) => Ok(()),
        }
    }

    /// Sets the number of workers: from nothing and to nothing, which an autoscaler cannot.
    pub(crate) async fn scale(&self, name: &str, replicas: u32) -> Result<(), ControlError> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.api::<Deployment>().patch_scale(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Writes the status if it is news.
    pub(crate) async fn report(
        &self,
        fleet: &ModelFleet,
        status: &ModelFleetStatus,
    ) -> Result<(), ControlError> {
        if fleet.status.as_ref() == Some(status) {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"status": status}));
        let api = self.api::<ModelFleet>();
        api.patch_status(&fleet.name_any(), &PatchParams::default(), &patch).await?;
        Ok(())
    }
}

async fn apply<K>(
    api: Api<K>,
    mut wanted: K,
    stands: &Place<K>,
    made_from: &str,
) -> Result<(), ControlError>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    wanted.annotations_mut().insert(MADE_FROM.to_owned(), made_from.to_owned());
    let patch = serde_json::to_value(&wanted)?;
    match stands {
        Place::Foreign => return Ok(()),
        Place::Ours(stands) if covers(&serde_json::to_value(stands)?, &patch) => return Ok(()),
        Place::Ours(_) | Place::Free => {}
    }
    // Fields that others set by hand are taken back: the fleet says what they are.
    let how = PatchParams::apply(MANAGER).force();
    api.patch(&wanted.name_any(), &how, &Patch::Apply(&patch)).await?;
    tracing::info!(kind = %patch["kind"], name = wanted.name_any(), "applied");
    Ok(())
}

/// What is to be gone may be gone already.
fn gone<T>(deleted: Result<T, kube::Error>) -> Result<(), ControlError> {
    match deleted {
        Err(kube::Error::Api(refusal)) if refusal.code == 404 => Ok(()),
        deleted => Ok(deleted.map(drop)?),
    }
}

fn count(number: Option<i32>) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
}
