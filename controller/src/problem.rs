//! Finds out why a fleet has fewer ready workers than it should have, from the status of its
//! Deployment and pods. Pure.

mod last_words;

use std::sync::Arc;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus},
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;

use self::last_words::last_words;

/// Time after which a pod whose containers are not created yet counts as stuck. Pulling a large
/// image may take minutes.
const STUCK: SignedDuration = SignedDuration::from_mins(5);

/// What keeps a worker from serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The reason of the condition, for programs.
    pub(crate) reason: &'static str,
    /// The sentence for users: what is wrong, with the last words of the container.
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Returns the problem of a fleet: that of its Deployment, else the problem that most pods share.
pub(crate) fn of(
    deployment: Option<&Deployment>,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> Option<Problem> {
    if let Some(refused) = deployment.and_then(refused_pods) {
        return Some(refused);
    }
    let problems: Vec<_> = pods.iter().filter_map(|pod| of_pod(pod, now)).collect();
    let shared =
        |problem: &Problem| problems.iter().filter(|it| it.reason == problem.reason).count();
    // The first of equals, so that the message stays the same from turn to turn.
    let most = problems.iter().rev().max_by_key(|problem| shared(problem))?;
    let problem = most.clone();
    let others = match shared(most) - 1 {
        0 => return Some(problem),
        1 => "1 other pod has".to_owned(),
        others => format!("{others} other pods have"),
    };
    let message = format!("{}; {others} the same problem", problem.message);
    Some(Problem { message, ..problem })
}

/// Returns whether a worker has been ready for `since`, which is long enough for its announcement
/// to have reached the controller. A pod that is being deleted, evicted or drained does not count.
pub(crate) fn has_served(pods: &[Arc<Pod>], since: SignedDuration, now: Timestamp) -> bool {
    let ready_since = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let ready = conditions.iter().find(|it| it.type_ == "Ready" && it.status == "True")?;
        Some(ready.last_transition_time.as_ref()?.0)
    };
    let remaining = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    remaining.filter_map(|pod| ready_since(pod)).any(|at| now.duration_since(at) >= since)
}

/// The API server refuses to create the pods: a quota, or an admission policy.
fn refused_pods(deployment: &Deployment) -> Option<Problem> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure =
        conditions.iter().find(|it| it.type_ == "ReplicaFailure" && it.status == "True")?;
    let why = failure.message.clone().unwrap_or_default();
    Some(Problem::new("PodsRefused", format!("Kubernetes refuses to create a pod: {why}")))
}

fn of_pod(pod: &Pod, now: Timestamp) -> Option<Problem> {
    let status = pod.status.as_ref()?;
    let has_ended = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    if pod.metadata.deletion_timestamp.is_some() || has_ended {
        return None;
    }
    let name = pod.name_any();
    let init = status.init_container_statuses.iter().flatten();
    let main = status.container_statuses.iter().flatten();
    unschedulable(&name, status)
        .or_else(|| init.clone().find_map(|container| of_container(&name, container, true)))
        .or_else(|| main.clone().find_map(|container| of_container(&name, container, false)))
        .or_else(|| stuck(&name, pod, status, now))
}

fn unschedulable(pod: &str, status: &PodStatus) -> Option<Problem> {
    let conditions = status.conditions.as_ref()?;
    let scheduled =
        conditions.iter().find(|it| it.type_ == "PodScheduled" && it.status == "False")?;
    let why = scheduled.message.as_deref().unwrap_or_default();
    let reason = if why.contains("persistentvolumeclaim") && why.contains("not found") {
        "ClaimMissing"
    } else if why.contains("PersistentVolumeClaims") {
        "ClaimUnbound"
    } else if why.contains("Insufficient ") {
        "InsufficientResources"
    } else {
        "Unschedulable"
    };
    Some(Problem::new(reason, format!("no node can run pod {pod}: {why}")))
}

fn of_container(pod: &str, status: &ContainerStatus, is_init: bool) -> Option<Problem> {
    let state = status.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let why = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
    let container = &status.name;
    let not_made = |problem, what: &str| {
        Some(Problem::new(problem, format!("{what} of pod {pod}: {reason}: {why}")))
    };
    match reason {
        "ImagePullBackOff"
        | "ErrImagePull"
        | "ErrImageNeverPull"
        | "InvalidImageName"
        | "ImageInspectError"
        | "RegistryUnavailable" => not_made(
            "ImageUnavailable",
            &format!("no image {} for container {container}", status.image),
        ),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => not_made(
            "ContainerNotCreated",
            &format!("Kubernetes cannot create container {container}"),
        ),
        _ => failed(pod, status, is_init),
    }
}

/// The last run of a container that is not ready failed. The container may be running again
/// meanwhile.
fn failed(pod: &str, status: &ContainerStatus, is_init: bool) -> Option<Problem> {
    if status.ready {
        return None;
    }
    let ended = |state: &Option<ContainerState>| state.as_ref()?.terminated.clone();
    let end = ended(&status.state).or_else(|| ended(&status.last_state))?;
    if end.exit_code == 0 {
        return None;
    }
    let words = end.message.as_deref().and_then(last_words);
    let reason = if is_init { "InitContainerFailed" } else { reason_of(&end, words.as_deref()) };
    let cause = end.reason.as_deref().filter(|reason| *reason != "Error");
    let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
    let restarts = match status.restart_count {
        0 => String::new(),
        1 => ", 1 restart".to_owned(),
        more => format!(", {more} restarts"),
    };
    let words = words.unwrap_or_else(|| "the log of the container has no error".to_owned());
    let (container, code) = (&status.name, end.exit_code);
    Some(Problem::new(
        reason,
        format!(
            "container {container} of pod {pod} ended with status {code}{cause}{restarts}: {words}"
        ),
    ))
}

/// Returns the reason for the end of a worker, by its exit status.
fn reason_of(end: &ContainerStateTerminated, words: Option<&str>) -> &'static str {
    let words = words.unwrap_or_default();
    match end.exit_code {
        _ if end.reason.as_deref() == Some("OOMKilled") => "OutOfMemory",
        64 if words.contains("Redis") => "RedisRefused",
        64 if words.contains("no model \"") => "ModelNotFound",
        64 => "InvalidSettings",
        70 => "BatchHung",
        71 => "DeviceLost",
        80 => "TaskEnded",
        _ => "WorkerFailed",
    }
}

/// The pod has a node, but its containers are not created: an image is pulled, or a volume, such as
/// that of a missing secret, cannot be mounted. Only the events of the pod tell which.
fn stuck(name: &str, pod: &Pod, status: &PodStatus, now: Timestamp) -> Option<Problem> {
    let waits = |container: &ContainerStatus| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        matches!(reason, Some("ContainerCreating" | "PodInitializing"))
    };
    let mut containers = status.container_statuses.iter().flatten();
    let created = pod.creation_timestamp()?.0;
    (now.duration_since(created) >= STUCK && containers.any(waits)).then(|| {
        Problem::new(
            "ContainerNotCreated",
            format!(
                "the containers of pod {name} are not created since {created}: \
                 `kubectl describe pod {name}` shows which image or volume is missing"
            ),
        )
    })
}

#[cfg(test)]
mod tests;
