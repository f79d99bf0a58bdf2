//! Pods that Kubernetes has ended: evicted, refused by their node, or stopped with it. Pure.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::Pod,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;

use super::{
    last_words::cut,
    look::{created, ready_since},
    statement::Problem,
};

/// Time for which an ended pod explains why workers are missing.
const RECENT: SignedDuration = SignedDuration::from_mins(10);

/// Returns the problem of the pod that was ended last, unless a pod has become ready since then and
/// replaces it.
pub(super) fn problem(pods: &[Arc<Pod>], now: Timestamp) -> Option<Problem> {
    let replaced = pods.iter().filter_map(|pod| ready_since(pod)).max();
    let remaining = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let ended = remaining.filter_map(|pod| Some((ended_at(pod)?, pod.name_any(), pod)));
    let recent = ended.filter(|(at, ..)| {
        now.duration_since(*at) <= RECENT && replaced.is_none_or(|replaced| replaced < *at)
    });
    let (_, name, pod) =
        recent.max_by(|(at, name, _), (other, last, _)| (at, name).cmp(&(other, last)))?;
    let status = pod.status.as_ref()?;
    let reason = status.reason.as_deref().unwrap_or("Failed");
    let why = cut(status.message.as_deref().unwrap_or("no message").trim_end_matches(['.', ' ']));
    let is_full = why.contains("EmptyDir") && why.contains("exceeds the limit");
    let remedy = if is_full { ": raise sizeLimit of the model's source" } else { "" };
    let message = format!("Kubernetes ended pod {name} ({reason}): {why}{remedy}");
    Some(Problem::new("PodsEvicted", message))
}

/// Returns the time at which a pod failed as a whole, which containers of a Deployment never do by
/// themselves.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref().filter(|it| it.phase.as_deref() == Some("Failed"))?;
    let changes = status.conditions.iter().flatten();
    let changes = changes.filter_map(|condition| Some(condition.last_transition_time.as_ref()?.0));
    let ends = status.container_statuses.iter().flatten().filter_map(|container| {
        let end = container.state.as_ref()?.terminated.as_ref()?;
        Some(end.finished_at.as_ref()?.0)
    });
    Some(changes.chain(ends).max().unwrap_or_else(|| created(pod)))
}
