//! What is wrong with a container of a pod. Pure.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus};

use super::{
    exit,
    last_words::last_words,
    look::{Look, running_since},
    pod_events::quoted,
    statement::Problem,
};

/// Name of the container that the controller defines.
pub(super) const WORKER: &str = "worker";

/// Whether a container prepares the pod, or serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Init,
    Main,
}

/// Returns why a container does not run, or ended.
pub(super) fn problem(look: &Look<'_>, status: &ContainerStatus, role: Role) -> Option<Problem> {
    let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let why = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
    match reason {
        "ImagePullBackOff"
        | "ErrImagePull"
        | "ErrImageNeverPull"
        | "InvalidImageName"
        | "ImageInspectError"
        | "RegistryUnavailable" => Some(no_image(look, status, &format!("{reason}: {why}"))),
        "CreateContainerConfigError" | "CreateContainerError" => {
            Some(not_started(look, status, "create", &format!("{reason}: {why}")))
        }
        "RunContainerError" => Some(not_started(look, status, "start", why)),
        _ => ended(look, status, role),
    }
}

fn no_image(look: &Look<'_>, status: &ContainerStatus, why: &str) -> Problem {
    let (image, container, pod) = (&status.image, &status.name, &look.name);
    let secrets = look.pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let names: Vec<&str> = secrets.map(|secret| secret.name.as_str()).collect();
    let access = match names.as_slice() {
        [] => "without a pull secret".to_owned(),
        [name] => format!("with the pull secret {name}"),
        names => format!("with the pull secrets {}", names.join(", ")),
    };
    let missing = look.events.last_of("FailedToRetrieveImagePullSecret");
    let missing = missing.map_or_else(String::new, |event| format!("; {}", quoted(event)));
    Problem::new(
        "ImageUnavailable",
        format!(
            "no image {image} for container {container} of pod {pod}, {access}: {why}{missing}"
        ),
    )
}

fn not_started(look: &Look<'_>, status: &ContainerStatus, step: &str, why: &str) -> Problem {
    let (container, pod) = (&status.name, &look.name);
    let message = format!("Kubernetes cannot {step} container {container} of pod {pod}: {why}");
    Problem::new("ContainerNotCreated", message)
}

/// The last run of a container that is not ready has ended. The container may be running again
/// meanwhile, but not for so long that the end of the last run explains nothing.
fn ended(look: &Look<'_>, status: &ContainerStatus, role: Role) -> Option<Problem> {
    if status.ready || running_since(status).is_some_and(|since| look.is_late(since)) {
        return None;
    }
    let end = |state: &Option<ContainerState>| state.as_ref()?.terminated.clone();
    let end = end(&status.state).or_else(|| end(&status.last_state))?;
    let cause = end.reason.as_deref().unwrap_or_default();
    if end.exit_code == 0 && role == Role::Init {
        return None;
    }
    // The names that containerd and Docker give to a program that cannot be executed.
    if matches!(cause, "StartError" | "ContainerCannotRun") {
        let why = end.message.as_deref().unwrap_or_default();
        return Some(not_started(look, status, "start", why));
    }
    let found = end.message.as_deref().and_then(last_words);
    let reason = match role {
        Role::Init => "InitContainerFailed",
        Role::Main if cause == "OOMKilled" => "OutOfMemory",
        Role::Main => exit::reason(end.exit_code, found.as_deref().unwrap_or_default()),
    };
    let words =
        if cause == "OOMKilled" { out_of_memory(look, status) } else { words(look, &end, found) };
    let cause = match cause {
        "" | "Error" | "Completed" => String::new(),
        cause => format!(" ({cause})"),
    };
    let restarts = match status.restart_count {
        0 => String::new(),
        1 => ", 1 restart".to_owned(),
        more => format!(", {more} restarts"),
    };
    let (container, pod, code) = (&status.name, &look.name, end.exit_code);
    Some(Problem::new(
        reason,
        format!(
            "container {container} of pod {pod} ended with status {code}{cause}{restarts}: {words}"
        ),
    ))
}

/// Returns what a container said last, else what Kubernetes says about its end.
fn words(look: &Look<'_>, end: &ContainerStateTerminated, found: Option<String>) -> String {
    let from_events = || {
        let text = "its liveness probe failed, so Kubernetes ended it";
        look.events.has_failed_liveness().then(|| text.to_owned())
    };
    found.or_else(from_events).unwrap_or_else(|| {
        let text = if end.exit_code == 0 {
            "the program ended without an error: another process stopped it, or the image is not \
             that of a worker"
        } else {
            "the log of the container has no error"
        };
        text.to_owned()
    })
}

fn out_of_memory(look: &Look<'_>, status: &ContainerStatus) -> String {
    let remedy =
        if status.name == WORKER { ": raise worker.limits.memory, or lower batch.max" } else { "" };
    let limits =
        look.definition(&status.name).and_then(|it| it.resources.as_ref()?.limits.as_ref());
    match limits.and_then(|limits| limits.get("memory")) {
        Some(limit) => format!("it needed more memory than its limit of {}{remedy}", limit.0),
        None => "its node had no memory left, and it has no memory limit".to_owned(),
    }
}
