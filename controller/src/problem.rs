//! Finds out why a fleet has fewer ready workers than it should have, from its Deployment, its pods
//! and their events. Pure.
//!
//! A cause that Kubernetes or a container tells counts first. A pod whose cause nothing tells is
//! named as soon as a step of its start has taken too long, so that a fleet without ready workers
//! never stays without a reason.

mod container;
mod eviction;
mod exit;
mod last_words;
mod look;
mod pod;
mod pod_events;
mod rollout;
mod statement;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Event, Pod},
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;

pub(crate) use self::statement::Problem;
use self::{
    look::{Look, ready_since},
    statement::most_shared,
};

/// Time that a pod may take for a step of its start without being named. Pulling a large image, or
/// loading a large model, may take minutes.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);
/// A start that takes so many times the measured cold start is late.
const LATE: u32 = 3;

/// What is known about the workers of a fleet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) deployment: Option<&'a Deployment>,
    /// Pods of the workers, including those that have ended or are being deleted.
    pub(crate) pods: &'a [Arc<Pod>],
    /// Events of the pods that [`Evidence::obscure`] names.
    pub(crate) events: &'a [Event],
    /// Whether fewer workers are ready than the Deployment is to have.
    pub(crate) lacks_workers: bool,
    /// The measured time from the creation of a pod until it is ready.
    pub(crate) cold_start: Option<Duration>,
    pub(crate) now: Timestamp,
}

impl<'a> Evidence<'a> {
    /// Returns the problem of a fleet: that of its Deployment, else the problem that most pods share.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let looks = self.looks();
        let all = |find: fn(&Look<'_>) -> Option<Problem>| {
            most_shared(&looks.iter().filter_map(find).collect::<Vec<_>>())
        };
        let evicted = || eviction::problem(self.pods, self.now);
        let stalled = || {
            let deployment = self.deployment.filter(|_| looks.iter().all(Look::is_ready))?;
            rollout::stalled(deployment, !looks.is_empty(), self.patience(), self.now)
        };
        let refused = self.deployment.and_then(rollout::refused);
        refused
            .or_else(|| all(pod::explained))
            .or_else(|| self.lacks_workers.then(evicted)?)
            .or_else(|| all(pod::overdue))
            .or_else(|| self.lacks_workers.then(stalled)?)
    }

    /// Returns what the oldest pod that is not ready does at present.
    pub(crate) fn activity(&self) -> Option<String> {
        self.looks().iter().find_map(pod::activity)
    }

    /// Returns the uids of the pods whose status does not tell enough, the oldest first.
    pub(crate) fn obscure(&self) -> Vec<String> {
        let looks = self.looks();
        let obscure = looks.iter().filter(|look| pod::needs_events(look));
        obscure.filter_map(|look| look.pod.uid()).collect()
    }

    /// Returns the living pods, the oldest first.
    fn looks(&self) -> Vec<Look<'a>> {
        let look = |pod| Look::at(pod, self.events, self.patience(), self.now);
        let mut looks: Vec<_> = self.pods.iter().filter_map(|pod| look(pod.as_ref())).collect();
        looks.sort_by_cached_key(|look| (look.created(), look.name.clone()));
        looks
    }

    fn patience(&self) -> SignedDuration {
        let measured = self.cold_start.map(|it| SignedDuration::try_from(it * LATE));
        measured.and_then(Result::ok).map_or(PATIENCE, |measured| measured.max(PATIENCE))
    }
}

/// Returns whether a worker has been ready for `since`, which is long enough for its announcement
/// to have reached the controller. A pod that is being deleted, evicted or drained does not count.
pub(crate) fn has_served(pods: &[Arc<Pod>], since: SignedDuration, now: Timestamp) -> bool {
    let remaining = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    remaining.filter_map(|pod| ready_since(pod)).any(|at| now.duration_since(at) >= since)
}
