//! Writes the objects of fleets, and remembers what the API server made of each write.

use std::{collections::HashMap, fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    covers::{covers, difference, restricted},
    mirror::Mirror,
    state::Existing,
};
use crate::{crd::ModelFleet, error::ControlError, objects::MANAGER};

/// Annotation with the controller version and the fleet generation that an object was made from.
/// When either changes, the object is applied again, which removes fields set by an earlier version
/// or generation.
const MADE_FROM: &str = "batchfleet.dev/made-from";
/// Pauses before a refused write is sent again: 5 s, 10 s, 20 s, 40 s, 60 s.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What the writes of one turn have changed, and which of them failed.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Changes that users should know.
    pub(crate) changes: Vec<Change>,
    /// The writes that the API server did not take.
    pub(crate) failures: Vec<ControlError>,
    /// The first field that the API server stores with another value than the controller sends, such
    /// as `spec.replicas of the Deployment digits`.
    pub(crate) overridden: Option<String>,
}

/// A change that users should know, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A change by another client was set back.
    SetBack(String),
    /// The API server stores another value than the controller sends.
    Overridden(String),
}

/// The writes of this process, by kind and name of the object.
#[derive(Debug, Default)]
pub(super) struct Writes(Mutex<HashMap<(String, String), LastWrites>>);

#[derive(Clone, Debug, Default)]
struct LastWrites {
    /// The last write that the API server took. An object that differs from it was changed by
    /// another client.
    taken: Option<Taken>,
    /// The last write, if the API server did not take it.
    failed: Option<Failed>,
}

#[derive(Clone, Debug)]
struct Taken {
    sent: Value,
    /// The values that the API server stored for the fields of `sent`. They differ from `sent` where
    /// an admission webhook changes the object.
    stored: Value,
}

impl Taken {
    fn overridden(&self) -> Option<String> {
        difference(&self.stored, &self.sent)
    }
}

#[derive(Clone, Debug)]
struct Failed {
    sent: Value,
    error: Arc<kube::Error>,
    pause: Duration,
    due: Instant,
}

impl Writes {
    /// Applies the desired object unless the existing object already matches, or the fleet does not
    /// own it.
    pub(super) async fn apply<K>(
        &self,
        mirror: &Mirror<K>,
        desired: K,
        existing: &Existing<K>,
        written: &mut Written,
    ) -> Result<(), ControlError>
    where
        K: Resource + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone + Send + Sync,
    {
        let name = desired.name_any();
        let patch = serde_json::to_value(&desired)?;
        let kind = patch["kind"].as_str().unwrap_or_default().to_owned();
        let key = (kind, name);
        let last = self.last(&key);
        if let Existing::Owned(object) = existing {
            let object = serde_json::to_value(&**object)?;
            if covers(&object, &patch) {
                self.took(key, Taken { sent: patch.clone(), stored: patch });
                return Ok(());
            }
            // The controller has sent exactly this, and the object is what the API server made of it.
            let taken = last.taken.as_ref().filter(|it| it.sent == patch);
            if let Some(taken) = taken.filter(|it| covers(&object, &it.stored)) {
                let field = taken.overridden().map(|field| of(&field, &key));
                written.overridden = written.overridden.take().or(field);
                return Ok(());
            }
        }
        if let Some(failed) = last.failed.as_ref().filter(|it| it.sent == patch && !it.is_due()) {
            return Err(not_taken(&key.0, failed.error.clone()));
        }
        let write = Write { mirror, key: &key, patch: &patch, existing, last: &last };
        match write.send(written).await {
            Ok(None) => Ok(()),
            Ok(Some(taken)) => {
                self.took(key, taken);
                Ok(())
            }
            Err(SendError::Unwritable(error)) => Err(error.into()),
            Err(SendError::Kube(error)) => {
                let error = Arc::new(error);
                self.failed(key.clone(), patch, error.clone());
                Err(not_taken(&key.0, error))
            }
        }
    }

    /// Sets the replicas of a Deployment.
    pub(super) async fn scale(
        &self,
        deployments: &Mirror<Deployment>,
        name: &str,
        replicas: u32,
    ) -> Result<(), ControlError> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let before = deployments.get(name);
        let params =
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let scaled = deployments.api().patch_scale(name, &params, &patch).await;
        scaled.map_err(|error| not_taken("scale of the Deployment", Arc::new(error)))?;
        let mut scaled = before.as_deref().cloned();
        if let Some(spec) = scaled.as_mut().and_then(|deployment| deployment.spec.as_mut()) {
            spec.replicas = i32::try_from(replicas).ok();
        }
        deployments.wrote(name, before.as_deref(), scaled);
        Ok(())
    }

    /// Deletes an object, unless it is already deleted or has been replaced by another object of the
    /// same name.
    pub(super) async fn delete<K>(
        &self,
        mirror: &Mirror<K>,
        kind: &str,
        object: &K,
    ) -> Result<(), ControlError>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone + Send + Sync,
    {
        let name = object.name_any();
        let same = Preconditions { uid: object.uid(), resource_version: None };
        let params = DeleteParams::default().preconditions(same);
        match mirror.api().delete(&name, &params).await {
            Err(kube::Error::Api(refusal)) if refusal.code == 404 => {}
            Err(error) => {
                return Err(not_taken(&format!("deletion of the {kind}"), Arc::new(error)));
            }
            Ok(_) => {}
        }
        self.0.lock().remove(&(kind.to_owned(), name.clone()));
        mirror.wrote(&name, Some(object), None);
        Ok(())
    }

    fn last(&self, key: &(String, String)) -> LastWrites {
        self.0.lock().get(key).cloned().unwrap_or_default()
    }

    fn took(&self, key: (String, String), taken: Taken) {
        let last = LastWrites { taken: Some(taken), failed: None };
        self.0.lock().insert(key, last);
    }

    fn failed(&self, key: (String, String), sent: Value, error: Arc<kube::Error>) {
        let (kind, name) = (&key.0, &key.1);
        let mut all = self.0.lock();
        let before = all.get(&key).and_then(|last| last.failed.as_ref());
        let pause = before
            .filter(|before| before.sent == sent)
            .map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
        warn!(kind, name, %error, ?pause, "object not written");
        let due = Instant::now() + pause;
        all.entry(key).or_default().failed = Some(Failed { sent, error, pause, due });
    }
}

impl Failed {
    fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }
}

fn not_taken(what: &str, source: Arc<kube::Error>) -> ControlError {
    ControlError::Write { what: what.to_owned(), source }
}

fn of(field: &str, (kind, name): &(String, String)) -> String {
    format!("{field} of the {kind} {name}")
}

/// Why an object was not sent.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error(transparent)]
    Unwritable(#[from] serde_json::Error),
}

/// A write of an object.
struct Write<'a, K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    mirror: &'a Mirror<K>,
    /// Kind and name.
    key: &'a (String, String),
    patch: &'a Value,
    existing: &'a Existing<K>,
    last: &'a LastWrites,
}

impl<K> Write<'_, K>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    /// Sends the object, unless another client has just created an object of its name. Adds what users
    /// should know about the change to `written`.
    async fn send(self, written: &mut Written) -> Result<Option<Taken>, SendError> {
        let Self { mirror, key, patch, existing, last } = self;
        let name = &key.1;
        if matches!(existing, Existing::Foreign | Existing::Leftover) {
            return Ok(None);
        }
        // The copy may lag behind. Ask the API server, so that an object which another client has
        // just created is not taken over.
        if matches!(existing, Existing::Absent) && mirror.api().get_opt(name).await?.is_some() {
            return Ok(None);
        }
        let healed = self.healed().await?;
        let mut sent = patch.clone();
        // With the uid, the patch fails if another object of the same name has replaced this one.
        if let Some(uid) = existing.owned().and_then(ResourceExt::uid) {
            sent["metadata"]["uid"] = uid.into();
        }
        // Forced, so that the controller's values win even if another client has set the same fields.
        let params = PatchParams::apply(MANAGER).force();
        let object = mirror.api().patch(name, &params, &Patch::Apply(&sent)).await?;
        info!(kind = key.0, name, "applied object");
        let stored = restricted(&serde_json::to_value(&object)?, patch);
        mirror.wrote(name, existing.owned(), Some(object));
        written.changes.extend(healed.map(Change::SetBack));
        let taken = Taken { sent: patch.clone(), stored };
        if let Some(field) = taken.overridden() {
            if last.taken.as_ref().and_then(Taken::overridden).as_ref() != Some(&field) {
                let note = format!(
                    "an admission webhook or a newer API server changes {} whenever the controller \
                     writes it; the controller leaves that value",
                    of(&field, key)
                );
                written.changes.push(Change::Overridden(note));
            }
            written.overridden = written.overridden.take().or_else(|| Some(of(&field, key)));
        }
        Ok(Some(taken))
    }

    /// Describes the change of another client that this write sets back. The controller itself may want
    /// something else since its last write.
    async fn healed(&self) -> Result<Option<String>, serde_json::Error> {
        let Some(last) = &self.last.taken else { return Ok(None) };
        let (kind, name) = (&self.key.0, &self.key.1);
        let change = match self.existing.owned() {
            None => Some(format!("the {kind} {name} was deleted and is created again")),
            Some(object) => {
                let field = difference(&serde_json::to_value(object)?, &last.stored);
                field.map(|it| format!("{} was changed and is set back", of(&it, self.key)))
            }
        };
        let Some(change) = change else { return Ok(None) };
        let author = author(self.mirror, name).await;
        let by = author.map_or_else(String::new, |author| format!(", by {author}"));
        Ok(Some(format!("{change}{by}")))
    }
}

/// Marks an object with what it is made from.
pub(super) fn stamped<K: Resource>(fleet: &ModelFleet, mut object: K) -> K {
    let generation = fleet.metadata.generation.unwrap_or_default();
    let made_from = format!("{}/{generation}", env!("CARGO_PKG_VERSION"));
    object.annotations_mut().insert(MADE_FROM.to_owned(), made_from);
    object
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

/// Returns the client that set the replicas of a Deployment last, as it names itself to the API
/// server; `None` if the object does not tell.
pub(super) async fn scaler(deployments: &Mirror<Deployment>, name: &str) -> Option<String> {
    let object = deployments.api().get_opt(name).await.ok()??;
    let sets_replicas = |fields: &Value| fields["f:spec"]["f:replicas"].is_object();
    let writes = object.managed_fields().iter();
    let scalings =
        writes.filter(|write| write.fields_v1.as_ref().is_some_and(|it| sets_replicas(&it.0)));
    let last = scalings.max_by_key(|write| write.time.as_ref().map(|time| time.0))?;
    last.manager.clone()
}
