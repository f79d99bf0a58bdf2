use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn pod(name: &str, status: &Value) -> Arc<Pod> {
    let metadata = json!({"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap())
}

fn container(state: &Value) -> Value {
    json!({
        "name": "worker", "image": "worker:1", "imageID": "", "ready": false, "restartCount": 2,
        "state": state,
    })
}

fn ended(code: i32, reason: &str, message: &str) -> Value {
    let mut container = container(&json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    let end = json!({"exitCode": code, "reason": reason, "message": message});
    container["lastState"] = json!({"terminated": end});
    json!({"containerStatuses": [container]})
}

fn unscheduled(message: &str) -> Value {
    json!({"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message},
    ]})
}

fn waiting(reason: &str, message: &str) -> Value {
    container(&json!({"waiting": {"reason": reason, "message": message}}))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of all kinds")]
fn each_kind_of_broken_pod_has_a_reason_and_the_words_of_its_cause() {
    let refused = "error: Redis at redis:6379 denies access to user \"worker\": WRONGPASS";
    for (status, reason, words) in [
        (
            ended(64, "Error", "error: no model \"wyde\" in /models; there is: wide"),
            "ModelNotFound",
            "container worker of pod p ended with status 64, 2 restarts: no model \"wyde\" in \
             /models; there is: wide",
        ),
        (ended(64, "Error", refused), "RedisRefused", "denies access to user \"worker\""),
        (ended(64, "Error", "error: --batch-sizes: 0"), "InvalidSettings", "--batch-sizes: 0"),
        (ended(70, "Error", ""), "BatchHung", "the log of the container has no error"),
        (ended(71, "Error", "x"), "DeviceLost", "status 71"),
        (ended(80, "Error", "x"), "TaskEnded", "status 80"),
        (ended(137, "OOMKilled", ""), "OutOfMemory", "status 137 (OOMKilled)"),
        (ended(1, "Error", "x"), "WorkerFailed", "status 1"),
        (
            unscheduled("0/1 nodes are available: persistentvolumeclaim \"models\" not found."),
            "ClaimMissing",
            "persistentvolumeclaim \"models\" not found",
        ),
        (
            unscheduled(
                "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            ),
            "ClaimUnbound",
            "no node can run pod p",
        ),
        (
            unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
            "InsufficientResources",
            "1 Insufficient nvidia.com/gpu",
        ),
        (
            unscheduled("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity"),
            "Unschedulable",
            "node affinity",
        ),
        (
            json!({"containerStatuses": [waiting("ImagePullBackOff", "Back-off pulling image")]}),
            "ImageUnavailable",
            "no image worker:1 for container worker of pod p: ImagePullBackOff: Back-off pulling",
        ),
        (
            json!({"containerStatuses": [waiting("CreateContainerConfigError", "runAsNonRoot")]}),
            "ContainerNotCreated",
            "runAsNonRoot",
        ),
        (
            json!({"containerStatuses": [waiting("ContainerCreating", "")]}),
            "ContainerNotCreated",
            "`kubectl describe pod p` shows which image or volume is missing",
        ),
        (
            json!({
                "initContainerStatuses": ended(22, "Error", "404")["containerStatuses"],
                "containerStatuses": [waiting("PodInitializing", "")],
            }),
            "InitContainerFailed",
            "ended with status 22, 2 restarts: 404",
        ),
    ] {
        let problem = of(None, &[pod("p", &status)], now()).unwrap();
        assert_eq!(problem.reason, reason, "{problem:?}");
        assert!(problem.message.contains(words), "{problem:?} lacks {words:?}");
    }
}

#[test]
fn pods_that_serve_start_or_stop_have_no_problem() {
    let mut recovered = ended(70, "Error", "hung");
    recovered["containerStatuses"][0]["ready"] = json!(true);
    let starting = json!({"containerStatuses": [container(&json!({"running": {}}))]});
    let evicted = json!({"phase": "Failed", "reason": "Evicted"});
    let finished = json!({"initContainerStatuses": [
        {"name": "fill", "image": "f", "imageID": "", "ready": true, "restartCount": 0,
         "state": {"terminated": {"exitCode": 0}}},
    ]});
    let mut stopping = Arc::unwrap_or_clone(pod("p", &ended(1, "Error", "x")));
    stopping.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:09:00Z")).unwrap();
    let pods = [recovered, starting, evicted, finished].map(|status| pod("p", &status));
    for pod in pods.into_iter().chain([Arc::new(stopping)]) {
        assert_eq!(of(None, std::slice::from_ref(&pod), now()), None, "{pod:?}");
    }
}

#[test]
fn the_problem_that_most_pods_share_counts_and_says_how_many_do() {
    let gpu = unscheduled("1 Insufficient nvidia.com/gpu");
    let pods = [pod("a", &ended(1, "Error", "x")), pod("b", &gpu), pod("c", &gpu)];
    let problem = of(None, &pods, now()).unwrap();
    assert_eq!(
        problem.message,
        "no node can run pod b: 1 Insufficient nvidia.com/gpu; 1 other pod has the same problem"
    );
}

#[test]
fn a_quota_that_refuses_pods_is_the_problem() {
    let failure = json!({
        "type": "ReplicaFailure", "status": "True", "message": "pods \"d-1\" is forbidden: exceeded quota",
    });
    let deployment = json!({"metadata": {}, "status": {"conditions": [failure]}});
    let deployment = serde_json::from_value(deployment).unwrap();
    let problem = of(Some(&deployment), &[], now()).unwrap();
    assert_eq!(problem.reason, "PodsRefused");
    assert!(problem.message.ends_with("exceeded quota"), "{problem:?}");
}

#[test]
fn a_worker_counts_as_serving_once_it_has_been_ready_for_a_while_and_is_not_being_deleted() {
    let ready = |at: &str| json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]});
    let since = SignedDuration::from_secs(15);
    let old = pod("p", &ready("2026-01-01T00:09:00Z"));
    assert!(has_served(std::slice::from_ref(&old), since, now()));
    assert!(!has_served(&[pod("p", &ready("2026-01-01T00:09:50Z"))], since, now()));
    let mut drained = Arc::unwrap_or_clone(old);
    drained.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:09:30Z")).unwrap();
    assert!(!has_served(&[Arc::new(drained)], since, now()));
}
