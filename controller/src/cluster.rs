//! A fleet's objects in the cluster: read, and applied where they differ from what they should be.

mod covers;

use std::fmt::Debug;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use self::covers::covers;
use crate::{
    crd::{ModelFleet, ModelFleetStatus},
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
}

/// A fleet's objects, as they stand.
pub(crate) struct Standing {
    pub(crate) deployment: Option<Deployment>,
    pub(crate) autoscaler: Option<HorizontalPodAutoscaler>,
    pub(crate) budget: Option<PodDisruptionBudget>,
    /// Somebody else's autoscaler for the same workers.
    pub(crate) rival: Option<String>,
}

impl Standing {
    /// Workers that were ordered; none if there is no Deployment.
    pub(crate) fn ordered(&self) -> u32 {
        let spec = self.deployment.as_ref().and_then(|deployment| deployment.spec.as_ref());
        spec.map_or(0, |spec| count(spec.replicas.or(Some(1))))
    }

    /// Workers that are ready.
    pub(crate) fn ready(&self) -> u32 {
        let status = self.deployment.as_ref().and_then(|deployment| deployment.status.as_ref());
        count(status.and_then(|status| status.ready_replicas))
    }
}

impl Cluster<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    /// The objects of a fleet, as they stand.
    pub(crate) async fn look(&self, fleet: &ModelFleet) -> Result<Standing, ControlError> {
        let name = fleet.name_any();
        let autoscalers =
            self.api::<HorizontalPodAutoscaler>().list(&ListParams::default()).await?;
        let targets = |autoscaler: &HorizontalPodAutoscaler| {
            let target = autoscaler.spec.as_ref().map(|spec| &spec.scale_target_ref);
            target.is_some_and(|target| target.kind == "Deployment" && target.name == name)
        };
        let owned = |autoscaler: &HorizontalPodAutoscaler| {
            autoscaler
                .owner_references()
                .iter()
                .any(|owner| Some(&owner.uid) == fleet.uid().as_ref())
        };
        let (ours, others): (Vec<_>, Vec<_>) =
            autoscalers.items.into_iter().filter(targets).partition(owned);
        Ok(Standing {
            deployment: self.api().get_opt(&name).await?,
            autoscaler: ours.into_iter().next(),
            budget: self.api().get_opt(&name).await?,
            rival: others.first().map(ResourceExt::name_any),
        })
    }

    /// Makes what stands what it should be; what already is, is left alone.
    pub(crate) async fn apply(
        &self,
        fleet: &ModelFleet,
        objects: Objects,
        standing: &Standing,
    ) -> Result<(), ControlError> {
        let generation = fleet.metadata.generation.unwrap_or_default();
        let made_from = format!("{}/{generation}", env!("CARGO_PKG_VERSION"));
        let Objects { deployment, autoscaler, budget } = objects;
        self.apply_one(deployment, standing.deployment.as_ref(), &made_from).await?;
        self.apply_one(budget, standing.budget.as_ref(), &made_from).await?;
        match (autoscaler, &standing.autoscaler) {
            (Some(wanted), stands) => self.apply_one(wanted, stands.as_ref(), &made_from).await,
            (None, None) => Ok(()),
            (None, Some(ours)) => {
                let api = self.api::<HorizontalPodAutoscaler>();
                gone(api.delete(&ours.name_any(), &DeleteParams::default()).await)
            }
        }
    }

    async fn apply_one<K>(
        &self,
        mut wanted: K,
        stands: Option<&K>,
        made_from: &str,
    ) -> Result<(), ControlError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        wanted.annotations_mut().insert(MADE_FROM.to_owned(), made_from.to_owned());
        let patch = serde_json::to_value(&wanted)?;
        if let Some(stands) = stands
            && covers(&serde_json::to_value(stands)?, &patch)
        {
            return Ok(());
        }
        // Fields that others set by hand are taken back: the fleet says what they are.
        let apply = PatchParams::apply(MANAGER).force();
        self.api::<K>().patch(&wanted.name_any(), &apply, &Patch::Apply(&patch)).await?;
        tracing::info!(kind = %K::kind(&()), name = wanted.name_any(), "applied");
        Ok(())
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
