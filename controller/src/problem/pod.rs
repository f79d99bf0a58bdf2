//! What is wrong with a pod. Pure.

use k8s_openapi::{api::core::v1::ContainerStatus, jiff::SignedDuration};

use super::{
    container::{self, Role, WORKER},
    look::{Look, running_since},
    pod_events::quoted,
    statement::Problem,
};

/// Age of a pod from which a warning about its volumes counts. Before, a volume may be on its way
/// from another node.
const SETTLED: SignedDuration = SignedDuration::from_secs(30);

/// Returns the problem of a pod whose cause Kubernetes or the container tells.
pub(super) fn explained(look: &Look<'_>) -> Option<Problem> {
    if look.is_ready() {
        return None;
    }
    let init = |it: &ContainerStatus| container::problem(look, it, Role::Init);
    let main = |it: &ContainerStatus| container::problem(look, it, Role::Main);
    unschedulable(look)
        .or_else(|| look.init_containers().find_map(init))
        .or_else(|| look.containers().find_map(main))
        .or_else(|| node_lost(look))
        .or_else(|| obstructed(look))
}

/// Returns the statement about a pod that takes too long, and whose cause is not known.
pub(super) fn overdue(look: &Look<'_>) -> Option<Problem> {
    if look.is_ready() || look.filling().is_some() {
        return None;
    }
    if look.is_being_created() {
        return look.is_late(look.created()).then(|| not_created(look));
    }
    let since = look.unready_since();
    let mut unready = look.containers().filter(|container| !container.ready);
    if let Some((container, started)) = unready.find_map(|it| Some((it, running_since(it)?))) {
        let since = since.max(started);
        return look.is_late(since).then(|| not_ready(look, container, &since.to_string()));
    }
    look.is_late(since).then(|| unknown(look, &since.to_string()))
}

/// Returns what a pod that is not ready does at present.
pub(super) fn activity(look: &Look<'_>) -> Option<String> {
    let (pod, created) = (&look.name, look.created());
    if look.is_ready() {
        return None;
    }
    if let Some((container, since)) = look.filling() {
        return Some(format!("init container {container} of pod {pod} runs since {since}"));
    }
    if look.is_being_created() {
        return Some(format!("the containers of pod {pod} are being created since {created}"));
    }
    let mut running = look.containers().filter(|container| !container.ready);
    running.find_map(|container| {
        let since = running_since(container)?;
        Some(format!("container {} of pod {pod} starts since {since}", container.name))
    })
}

fn unschedulable(look: &Look<'_>) -> Option<Problem> {
    let scheduled = look.condition("PodScheduled").filter(|it| it.status == "False")?;
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
    Some(Problem::new(reason, format!("no node can run pod {}: {why}", look.name)))
}

/// The node no longer reports: Kubernetes marks the pod as not ready, and the containers stay as
/// the node reported them last.
fn node_lost(look: &Look<'_>) -> Option<Problem> {
    let ready = look.condition("Ready").filter(|it| it.status == "False")?;
    let has_gates = ready.reason.as_deref() == Some("ReadinessGatesNotReady");
    let are_ready = look.condition("ContainersReady").is_some_and(|it| it.status == "True");
    if has_gates || !are_ready || !look.containers().all(|container| container.ready) {
        return None;
    }
    let node = look.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let (node, since) = (node.unwrap_or_default(), look.unready_since());
    let message = format!(
        "the node {node} of pod {} does not report since {since}: Kubernetes starts another pod on \
         another node once the node has been away for as long as the pod tolerates, 5 minutes by \
         default",
        look.name
    );
    Some(Problem::new("NodeLost", message))
}

/// A warning tells why the containers of the pod are not created.
fn obstructed(look: &Look<'_>) -> Option<Problem> {
    let is_settled = look.now.duration_since(look.created()) >= SETTLED;
    if !is_settled || !look.is_being_created() {
        return None;
    }
    let warning = look.events.obstacle()?;
    let (pod, why) = (&look.name, quoted(warning));
    let is_volume = matches!(
        warning.reason.as_deref(),
        Some("FailedMount" | "FailedAttachVolume" | "FailedMapVolume")
    );
    if !is_volume {
        let message = format!("Kubernetes cannot create the containers of pod {pod}: {why}");
        return Some(Problem::new("ContainerNotCreated", message));
    }
    let remedy = if why.contains("Multi-Attach") {
        ": a claim with the access mode ReadWriteOnce can be used on one node only; use a claim with \
         ReadOnlyMany or ReadWriteMany, or keep the workers on one node with pod.nodeSelector"
    } else {
        ""
    };
    let message = format!("a volume of pod {pod} cannot be mounted: {why}{remedy}");
    Some(Problem::new("VolumeUnavailable", message))
}

fn not_created(look: &Look<'_>) -> Problem {
    let (pod, created, last) = (&look.name, look.created(), last_event(look));
    let message = format!(
        "the containers of pod {pod} are not created since {created}: its node pulls an image, or \
         waits for a volume{last}"
    );
    Problem::new("ContainerNotCreated", message)
}

fn not_ready(look: &Look<'_>, container: &ContainerStatus, since: &str) -> Problem {
    let (name, pod) = (&container.name, &look.name);
    // The usual warning only repeats that the worker is not ready.
    let unhealthy = look.events.last_of("Unhealthy").filter(|event| {
        event.message.as_ref().is_some_and(|message| !message.ends_with("statuscode: 503"))
    });
    let warning = unhealthy.map_or_else(String::new, |event| format!("; {}", quoted(event)));
    let work =
        if name == WORKER { ": it still loads its model, or it cannot reach Redis" } else { "" };
    let message =
        format!("container {name} of pod {pod} runs and is not ready since {since}{work}{warning}");
    Problem::new("WorkerNotReady", message)
}

fn unknown(look: &Look<'_>, since: &str) -> Problem {
    let phase = look.status.phase.as_deref().unwrap_or("unknown");
    let why = look.condition("Ready").and_then(|ready| ready.message.as_deref());
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    let last = last_event(look);
    let message =
        format!("pod {} is not ready since {since}, in phase {phase}{why}{last}", look.name);
    Problem::new("PodNotReady", message)
}

fn last_event(look: &Look<'_>) -> String {
    look.events.last().map_or_else(String::new, |it| format!("; its last event is {}", quoted(it)))
}

/// Whether the events of the pod may tell more than its status.
pub(super) fn needs_events(look: &Look<'_>) -> bool {
    let is_scheduled = look.condition("PodScheduled").is_none_or(|it| it.status == "True");
    let is_settled = look.now.duration_since(look.created()) >= SETTLED;
    is_scheduled && is_settled && !look.is_ready() && look.filling().is_none()
}
