//! A local copy of a namespace's objects of one kind, kept current by a watch.

use std::{collections::HashMap, fmt::Debug, future, hash::Hash, sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        reflector::store::{Store, Writer},
        watcher::{self, Event, watcher},
    },
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::sleep};
use tracing::{debug, warn};

use crate::error::ControlError;

/// The API server ends each watch after this time, and the client shortly afterwards. Limits the
/// age of a copy whose connection broke without an error.
const WATCH_SECONDS: u32 = 60;
/// Pause before a failed watch restarts.
const RETRY: Duration = Duration::from_secs(1);
/// Pause before checking again for an API that is not installed.
const RETRY_ABSENT: Duration = Duration::from_mins(1);

/// A local copy of the objects of one kind.
pub(super) struct Mirror<K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    api: Api<K>,
    plural: String,
    copy: Store<K>,
    health: watch::Receiver<Health>,
    /// Objects that this process wrote and the watch has not delivered yet.
    written: Mutex<HashMap<String, Written<K>>>,
}

/// A write by this process: the object, or `None` if it was deleted.
struct Written<K> {
    object: Option<Arc<K>>,
    /// Version of the object in the local copy at the time of the write.
    copied_version: Option<String>,
}

/// Whether a local copy is up to date.
#[derive(Clone, Debug)]
enum Health {
    /// The initial list is in progress.
    Listing,
    /// The copy is complete, and the watch delivers every change.
    Current,
    /// The API server does not know the kind or denies access to it.
    NotInstalled,
    /// The list or the watch failed and will restart.
    Failed(Arc<watcher::Error>),
}

/// Whether the API server is required to serve a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Part of Kubernetes.
    Required,
    /// Installed separately. A kind to which access is denied counts as not installed.
    Optional,
}

impl<K> Mirror<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    /// Creates the mirror of a kind in a namespace, and the task that keeps the mirror current
    /// until the task is dropped.
    pub(super) fn new(
        api: Api<K>,
        kind: K::DynamicType,
        presence: Presence,
        config: watcher::Config,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let plural = K::plural(&kind).into_owned();
        let writer = Writer::new(kind);
        let (sender, health) = watch::channel(Health::Listing);
        let mirror = Self {
            api: api.clone(),
            plural: plural.clone(),
            copy: writer.as_reader(),
            health,
            written: Mutex::default(),
        };
        let config = config.timeout(WATCH_SECONDS);
        let task = WatchTask { api, plural, presence, config, writer, health: sender };
        (mirror, task.run())
    }

    pub(super) fn api(&self) -> &Api<K> {
        &self.api
    }

    /// Waits for the initial list and returns whether the kind is installed; always true for a
    /// required kind.
    ///
    /// # Errors
    /// If the watch has failed, because the copy may be out of date.
    pub(super) async fn is_installed(&self) -> Result<bool, ControlError> {
        let mut health = self.health.clone();
        let listed = health.wait_for(|health| !matches!(health, Health::Listing)).await;
        let listed = listed.map(|health| health.clone());
        let Ok(health) = listed else {
            // The watch task has been dropped, so the process is shutting down.
            return future::pending().await;
        };
        match health {
            Health::Failed(error) => {
                Err(ControlError::Watch { plural: self.plural.clone(), source: error })
            }
            health => Ok(matches!(health, Health::Current)),
        }
    }

    /// Returns the object with this name.
    pub(super) fn get(&self, name: &str) -> Option<Arc<K>> {
        let copied = self.copy.find(|object| object.name_any() == name);
        let mut written = self.written.lock();
        match written.get(name) {
            Some(last) if last.copied_version == version(copied.as_deref()) => last.object.clone(),
            Some(_) => {
                written.remove(name);
                copied
            }
            None => copied,
        }
    }

    /// Returns all objects that satisfy `matches`.
    pub(super) fn all(&self, matches: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let found = self.copy.state_filter(matches);
        found.into_iter().filter_map(|object| self.get(&object.name_any())).collect()
    }

    /// Remembers a write until the watch delivers it, so that a turn a few milliseconds later does
    /// not write the same object again. `before` is the object that the write replaced.
    pub(super) fn wrote(&self, name: &str, before: Option<&K>, object: Option<K>) {
        let copied_version = version(self.copy.find(|copied| copied.name_any() == name).as_deref());
        let mut written = self.written.lock();
        let expected =
            written.get(name).map_or_else(|| version(before), |last| last.copied_version.clone());
        // If the copy has changed since `before`, the copy may be newer than the write.
        if copied_version == expected {
            let object = object.map(Arc::new);
            written.insert(name.to_owned(), Written { object, copied_version });
        } else {
            written.remove(name);
        }
    }
}

fn version<K: Resource>(object: Option<&K>) -> Option<String> {
    object.and_then(ResourceExt::resource_version)
}

/// Keeps the copy of a mirror current.
struct WatchTask<K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    api: Api<K>,
    plural: String,
    presence: Presence,
    config: watcher::Config,
    writer: Writer<K>,
    health: watch::Sender<Health>,
}

impl<K> WatchTask<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    /// Lists and watches until dropped. After an error the watch restarts with a list, because only
    /// a list proves that the copy is current again.
    async fn run(mut self) {
        loop {
            let Err(error) = self.follow().await else { continue };
            if self.presence == Presence::Optional && is_refused(&error) {
                debug!(api = self.plural, %error, "API not installed");
                self.health.send_replace(Health::NotInstalled);
                sleep(RETRY_ABSENT).await;
            } else {
                warn!(api = self.plural, %error, "watch failed");
                self.health.send_replace(Health::Failed(Arc::new(error)));
                sleep(RETRY).await;
            }
        }
    }

    /// Lists and watches until an error occurs.
    async fn follow(&mut self) -> Result<(), watcher::Error> {
        let events = watcher(self.api.clone(), self.config.clone());
        let applied = events.try_for_each(|event| {
            let is_listed = matches!(event, Event::InitDone);
            // Managed fields are large, and the controller does not read them.
            let event = event.modify(|object| object.managed_fields_mut().clear());
            self.writer.apply_watcher_event(&event);
            if is_listed {
                self.health.send_replace(Health::Current);
            }
            future::ready(Ok(()))
        });
        applied.await
    }
}

/// Returns whether the API server does not know the kind or denies access to it.
fn is_refused(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(refusal))
        | watcher::Error::WatchStartFailed(kube::Error::Api(refusal))
        | watcher::Error::WatchError(refusal) => refusal.code,
        _ => return false,
    };
    matches!(code, 403 | 404)
}
