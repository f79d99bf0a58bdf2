//! One pod, and what is known about it. Pure.

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Event, Pod, PodCondition, PodStatus},
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;

use super::pod_events::PodEvents;

/// A pod that is neither ended nor being deleted.
pub(super) struct Look<'a> {
    pub(super) pod: &'a Pod,
    pub(super) status: &'a PodStatus,
    pub(super) name: String,
    pub(super) events: PodEvents<'a>,
    /// Time that a pod may take for a step of its start.
    pub(super) patience: SignedDuration,
    pub(super) now: Timestamp,
}

impl<'a> Look<'a> {
    /// Looks at a pod, unless it has ended or is being deleted.
    pub(super) fn at(
        pod: &'a Pod,
        events: &'a [Event],
        patience: SignedDuration,
        now: Timestamp,
    ) -> Option<Self> {
        let status = pod.status.as_ref().filter(|_| is_living(pod))?;
        let (name, events) = (pod.name_any(), PodEvents::of(pod, events));
        Some(Self { pod, status, name, events, patience, now })
    }

    /// Returns a condition of the pod.
    pub(super) fn condition(&self, name: &str) -> Option<&'a PodCondition> {
        condition(self.pod, name)
    }

    pub(super) fn is_ready(&self) -> bool {
        is_ready(self.pod)
    }

    pub(super) fn created(&self) -> Timestamp {
        created(self.pod)
    }

    /// Returns the time since which the pod is not ready.
    pub(super) fn unready_since(&self) -> Timestamp {
        let ready = self.condition("Ready").and_then(|it| it.last_transition_time.as_ref());
        ready.map_or(self.created(), |time| time.0)
    }

    /// Whether a step that began at `since` has taken too long.
    pub(super) fn is_late(&self, since: Timestamp) -> bool {
        self.now.duration_since(since) >= self.patience
    }

    pub(super) fn init_containers(&self) -> impl Iterator<Item = &'a ContainerStatus> + use<'a> {
        self.status.init_container_statuses.iter().flatten()
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = &'a ContainerStatus> + use<'a> {
        self.status.container_statuses.iter().flatten()
    }

    /// Returns the definition of a container.
    pub(super) fn definition(&self, container: &str) -> Option<&'a Container> {
        let spec = self.pod.spec.as_ref()?;
        spec.containers.iter().find(|it| it.name == container)
    }

    /// Returns the init container that runs, and since when. A sidecar that is ready does not count.
    pub(super) fn filling(&self) -> Option<(&'a str, Timestamp)> {
        let mut running = self.init_containers().filter(|it| !it.ready);
        running.find_map(|it| Some((it.name.as_str(), running_since(it)?)))
    }

    /// Whether Kubernetes has yet to create the containers of the pod.
    pub(super) fn is_being_created(&self) -> bool {
        self.filling().is_none() && self.containers().any(is_being_created)
    }
}

fn is_being_created(container: &ContainerStatus) -> bool {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
    matches!(reason, Some("ContainerCreating" | "PodInitializing"))
}

/// Returns the time since which a container runs.
pub(super) fn running_since(container: &ContainerStatus) -> Option<Timestamp> {
    let running = container.state.as_ref()?.running.as_ref()?;
    running.started_at.as_ref().map(|time| time.0)
}

/// Whether a pod has neither ended nor is being deleted.
fn is_living(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|it| it.status == "True")
}

fn condition<'a>(pod: &'a Pod, name: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|it| it.type_ == name)
}

/// Returns the time since which a pod is ready.
pub(super) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|it| it.status == "True")?;
    Some(ready.last_transition_time.as_ref()?.0)
}

/// Returns the time at which the pod was created.
pub(super) fn created(pod: &Pod) -> Timestamp {
    pod.creation_timestamp().map_or(Timestamp::MAX, |time| time.0)
}
