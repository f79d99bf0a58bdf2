//! What is wrong with a Deployment. Pure.

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition},
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;

use super::statement::Problem;

/// The API server refuses to create the pods: a quota, or an admission policy.
pub(super) fn refused(deployment: &Deployment) -> Option<Problem> {
    let failure = condition(deployment, "ReplicaFailure").filter(|it| it.status == "True")?;
    let why = failure.message.clone().unwrap_or_default();
    Some(Problem::new("PodsRefused", format!("Kubernetes refuses to create a pod: {why}")))
}

/// No pod tells what is wrong, but the Deployment has no pod, or makes no progress.
pub(super) fn stalled(
    deployment: &Deployment,
    has_pods: bool,
    patience: SignedDuration,
    now: Timestamp,
) -> Option<Problem> {
    let name = deployment.name_any();
    let available = condition(deployment, "Available").filter(|it| it.status == "False");
    let since = available.and_then(|it| Some(it.last_transition_time.as_ref()?.0));
    if let Some(since) = since.filter(|_| !has_pods)
        && now.duration_since(since) >= patience
    {
        let message = format!(
            "the Deployment {name} has no pod since {since}: the controllers of Kubernetes have not \
             created any"
        );
        return Some(Problem::new("PodsMissing", message));
    }
    let progress = condition(deployment, "Progressing").filter(|it| it.status == "False")?;
    let why = progress.message.clone().unwrap_or_default();
    let message = format!("the Deployment {name} makes no progress: {why}");
    (progress.reason.as_deref() == Some("ProgressDeadlineExceeded"))
        .then(|| Problem::new("RolloutStalled", message))
}

fn condition<'a>(deployment: &'a Deployment, name: &str) -> Option<&'a DeploymentCondition> {
    deployment.status.as_ref()?.conditions.as_ref()?.iter().find(|it| it.type_ == name)
}
