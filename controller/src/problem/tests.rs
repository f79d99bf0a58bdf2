use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn pod(name: &str, status: &Value) -> Arc<Pod> {
    let metadata = json!({"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"});
    let limits = json!({"limits": {"memory": "256Mi"}});
    let spec = json!({
        "nodeName": "n", "imagePullSecrets": [{"name": "registry"}],
        "containers": [{"name": "worker", "image": "worker:1", "resources": limits}],
    });
    let pod = json!({"metadata": metadata, "spec": spec, "status": status});
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// An event of the pod `p`, so many seconds after ten minutes past midnight.
fn event(type_: &str, reason: &str, message: &str, seconds: i64) -> Event {
    let at = now() + SignedDuration::from_secs(seconds);
    let event = json!({
        "metadata": {}, "involvedObject": {"kind": "Pod", "uid": "p"}, "type": type_,
        "reason": reason, "message": message, "lastTimestamp": at.to_string(),
    });
    serde_json::from_value(event).unwrap()
}

fn evidence(pods: &[Arc<Pod>]) -> Evidence<'_> {
    Evidence {
        deployment: None,
        pods,
        events: &[],
        lacks_workers: true,
        cold_start: None,
        now: now(),
    }
}

fn problem(pods: &[Arc<Pod>]) -> Option<Problem> {
    evidence(pods).problem()
}

/// Checks the problem of the pod `p` with this status and these events.
fn assert_problem(status: &Value, events: &[Event], reason: &str, words: &str) {
    let pods = [pod("p", status)];
    let problem = Evidence { events, ..evidence(&pods) }.problem();
    let problem = problem.unwrap_or_else(|| panic!("no problem instead of {reason}: {status}"));
    assert_eq!(problem.reason, reason, "{problem:?}");
    assert!(problem.message.contains(words), "{problem:?} lacks {words:?}");
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

fn running(since: &str) -> Value {
    container(&json!({"running": {"startedAt": since}}))
}

/// The condition `Ready` of a pod that is not ready.
fn unready(since: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": "Ready", "status": "False", "lastTransitionTime": since,
        "reason": reason, "message": message,
    })
}

#[test]
fn the_end_of_a_worker_is_told_in_its_last_words() {
    let refused = "error: Redis at redis:6379 denies access to user \"worker\": WRONGPASS";
    let draining = r#"{"level":"INFO","message":"draining"}"#;
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
        (
            ended(137, "OOMKilled", draining),
            "OutOfMemory",
            "ended with status 137 (OOMKilled), 2 restarts: it needed more memory than its limit of \
             256Mi: raise worker.limits.memory, or lower batch.max",
        ),
        (ended(1, "Error", "x"), "WorkerFailed", "status 1"),
        (ended(137, "Error", draining), "WorkerFailed", "the log of the container has no error"),
        (
            ended(0, "Completed", ""),
            "WorkerEnded",
            "ended with status 0, 2 restarts: the program ended without an error",
        ),
        (
            ended(128, "StartError", "exec: \"/bin/no\": no such file"),
            "ContainerNotCreated",
            "Kubernetes cannot start container worker of pod p: exec: \"/bin/no\": no such file",
        ),
        (
            json!({"containerStatuses": [waiting("RunContainerError", "exec: \"/bin/no\"")]}),
            "ContainerNotCreated",
            "Kubernetes cannot start container worker of pod p: exec: \"/bin/no\"",
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
        assert_problem(&status, &[], reason, words);
    }
}

#[test]
fn a_pod_that_has_no_node_or_no_image_is_told_in_the_words_of_kubernetes() {
    for (status, reason, words) in [
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
            "no image worker:1 for container worker of pod p, with the pull secret registry: \
             ImagePullBackOff: Back-off pulling image",
        ),
        (
            json!({"containerStatuses": [waiting("CreateContainerConfigError", "runAsNonRoot")]}),
            "ContainerNotCreated",
            "runAsNonRoot",
        ),
    ] {
        assert_problem(&status, &[], reason, words);
    }
    let denied = json!({"containerStatuses": [waiting("ErrImagePull", "unauthorized")]});
    let secret = event("Warning", "FailedToRetrieveImagePullSecret", "Unable to retrieve", -9);
    assert_problem(
        &denied,
        &[secret],
        "ImageUnavailable",
        "unauthorized; FailedToRetrieveImagePull",
    );
}

#[test]
fn a_pod_whose_containers_are_not_created_is_told_in_the_last_warning_that_has_a_cause() {
    let status = json!({"containerStatuses": [waiting("ContainerCreating", "")]});
    let warning = |reason, message, at| event("Warning", reason, message, at);
    let attached = || warning("FailedAttachVolume", "Multi-Attach error for volume \"v\"", -500);
    let repeated = || warning("FailedMount", "timed out waiting for the condition", -60);
    let secret = || warning("FailedMount", "secret \"redis\" not found", -50);
    let pulling = |at| event("Normal", "Pulling", "Pulling image \"worker:1\"", at);
    for (events, reason, words) in [
        (
            vec![repeated(), attached(), event("Normal", "Scheduled", "Assigned", -500)],
            "VolumeUnavailable",
            "a volume of pod p cannot be mounted: FailedAttachVolume: Multi-Attach error for volume \
             \"v\": a claim with the access mode ReadWriteOnce can be used on one node only",
        ),
        (vec![repeated()], "VolumeUnavailable", "timed out waiting"),
        (vec![pulling(-70), secret()], "VolumeUnavailable", "secret \"redis\" not found"),
        (
            vec![warning("FailedCreatePodSandBox", "no address", -1)],
            "ContainerNotCreated",
            "Kubernetes cannot create the containers of pod p: FailedCreatePodSandBox: no address",
        ),
        // An image has been pulled for ten minutes; the warnings are of earlier steps.
        (
            vec![warning("FailedScheduling", "no GPU", -1), secret(), pulling(-40)],
            "ContainerNotCreated",
            "are not created since 2026-01-01T00:00:00Z: its node pulls an image",
        ),
        (vec![pulling(-40)], "ContainerNotCreated", "its last event is Pulling: Pulling image"),
        (vec![], "ContainerNotCreated", "its node pulls an image, or waits for a volume"),
    ] {
        assert_problem(&status, &events, reason, words);
    }
    // A warning counts after half a minute, and a wait without one after five minutes.
    let pods = [pod("p", &status)];
    let events = [secret()];
    let after = |seconds, events| {
        let now = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap();
        let now = now + SignedDuration::from_secs(seconds);
        let evidence = Evidence { events, now, ..evidence(&pods) };
        (evidence.problem().map(|problem| problem.reason), evidence.obscure().len())
    };
    assert_eq!(after(29, &events[..]), (None, 0));
    assert_eq!(after(30, &events[..]), (Some("VolumeUnavailable"), 1));
    assert_eq!(after(299, &[][..]), (None, 1));
    assert_eq!(after(300, &[][..]), (Some("ContainerNotCreated"), 1));
}

#[test]
fn a_pod_whose_cause_nothing_tells_is_named_once_it_takes_too_long() {
    let killed = event("Normal", "Killing", "Container worker failed liveness probe", -60);
    let refused = event("Warning", "Unhealthy", "Readiness probe failed: refused", -60);
    let lost = json!({
        "conditions": [
            unready("2026-01-01T00:09:00Z", "x", "x"),
            {"type": "ContainersReady", "status": "True"},
        ],
        "containerStatuses": [{
            "name": "worker", "image": "w", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:01:00Z"}},
        }],
    });
    let mut gated = lost.clone();
    gated["conditions"][0] = unready("2026-01-01T00:01:00Z", "ReadinessGatesNotReady", "no gate");
    let mut crashed_before = ended(70, "Error", "hung");
    crashed_before["containerStatuses"][0]["state"] =
        json!({"running": {"startedAt": "2026-01-01T00:05:00Z"}});
    for (status, events, reason, words) in [
        (
            json!({"containerStatuses": [running("2026-01-01T00:05:00Z")]}),
            vec![],
            "WorkerNotReady",
            "container worker of pod p runs and is not ready since 2026-01-01T00:05:00Z: it still \
             loads its model, or it cannot reach Redis",
        ),
        (
            json!({
                "conditions": [unready("2026-01-01T00:04:00Z", "ContainersNotReady", "x")],
                "containerStatuses": [running("2026-01-01T00:01:00Z")],
            }),
            vec![refused],
            "WorkerNotReady",
            "since 2026-01-01T00:04:00Z: it still loads its model, or it cannot reach Redis; \
             Unhealthy: Readiness probe failed: refused",
        ),
        (crashed_before, vec![], "WorkerNotReady", "not ready since 2026-01-01T00:05:00Z"),
        (ended(0, "Completed", ""), vec![killed], "WorkerEnded", "its liveness probe failed"),
        (lost, vec![], "NodeLost", "the node n of pod p does not report since"),
        (gated, vec![], "PodNotReady", "since 2026-01-01T00:01:00Z, in phase unknown: no gate"),
        (
            json!({"phase": "Pending"}),
            vec![],
            "PodNotReady",
            "pod p is not ready since 2026-01-01T00:00:00Z, in phase Pending",
        ),
    ] {
        assert_problem(&status, &events, reason, words);
    }
}

#[test]
fn a_slow_start_may_take_three_times_the_measured_cold_start() {
    let pods = [pod("p", &json!({"containerStatuses": [running("2026-01-01T00:00:01Z")]}))];
    let reason = |seconds| {
        let cold_start = Some(Duration::from_secs(seconds));
        Evidence { cold_start, ..evidence(&pods) }.problem().map(|problem| problem.reason)
    };
    assert_eq!((reason(199), reason(200)), (Some("WorkerNotReady"), None));
}

#[test]
fn the_pod_that_kubernetes_ended_last_explains_missing_workers_for_ten_minutes() {
    let failed = |reason: &str, message: &str, at: &str| {
        json!({
            "phase": "Failed", "reason": reason, "message": message,
            "conditions": [unready(at, "PodFailed", "")],
        })
    };
    let full = "Usage of EmptyDir volume \"models\" exceeds the limit \"1Mi\". ";
    let pods = [
        pod("a", &failed("UnexpectedAdmissionError", "no GPU", "2026-01-01T00:01:00Z")),
        pod("b", &failed("Evicted", full, "2026-01-01T00:09:00Z")),
        pod("c", &json!({"containerStatuses": [running("2026-01-01T00:09:30Z")]})),
    ];
    assert_eq!(
        problem(&pods).unwrap(),
        Problem::new(
            "PodsEvicted",
            "Kubernetes ended pod b (Evicted): Usage of EmptyDir volume \"models\" exceeds the limit \
             \"1Mi\": raise sizeLimit of the model's source"
        )
    );
    assert!(problem(&pods[..1]).unwrap().message.contains("(UnexpectedAdmissionError): no GPU"));
    // All workers are ready again.
    assert_eq!(Evidence { lacks_workers: false, ..evidence(&pods) }.problem(), None);
    // Another pod has replaced it, and only a pod that starts is missing.
    let ready = |at: &str| json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]});
    let mut replaced = pods.to_vec();
    replaced.push(pod("d", &ready("2026-01-01T00:09:20Z")));
    assert_eq!(problem(&replaced), None);
    replaced[3] = pod("d", &ready("2026-01-01T00:08:00Z"));
    assert!(problem(&replaced).is_some());
    let later = now() + SignedDuration::from_mins(2);
    assert_eq!(Evidence { now: later, ..evidence(&pods[..1]) }.problem(), None);
}

#[test]
fn pods_that_serve_start_or_stop_have_no_problem() {
    let mut recovered = ended(70, "Error", "hung");
    recovered["containerStatuses"][0]["ready"] = json!(true);
    recovered["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    let starting = json!({"containerStatuses": [running("2026-01-01T00:09:00Z")]});
    let filling = json!({
        "initContainerStatuses": [running("2026-01-01T00:01:00Z")],
        "containerStatuses": [waiting("PodInitializing", "")],
    });
    let mut stopping = Arc::unwrap_or_clone(pod("p", &ended(1, "Error", "x")));
    stopping.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:09:00Z")).unwrap();
    let pods = [recovered, starting, filling].map(|status| pod("p", &status));
    for pod in pods.into_iter().chain([Arc::new(stopping)]) {
        assert_eq!(problem(std::slice::from_ref(&pod)), None, "{pod:?}");
    }
}

#[test]
fn a_start_says_what_it_does() {
    let mut filling = running("2026-01-01T00:01:00Z");
    filling["name"] = json!("fill");
    let waits = waiting("PodInitializing", "");
    for (status, expected) in [
        (
            json!({"initContainerStatuses": [filling], "containerStatuses": [waits.clone()]}),
            "init container fill of pod p runs since 2026-01-01T00:01:00Z",
        ),
        (
            json!({"containerStatuses": [waits]}),
            "the containers of pod p are being created since 2026-01-01T00:00:00Z",
        ),
        (
            json!({"containerStatuses": [running("2026-01-01T00:09:00Z")]}),
            "container worker of pod p starts since 2026-01-01T00:09:00Z",
        ),
    ] {
        assert_eq!(evidence(&[pod("p", &status)]).activity().as_deref(), Some(expected));
    }
    let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    assert_eq!(evidence(&[pod("p", &ready)]).activity(), None);
}

#[test]
fn the_problem_that_most_pods_share_counts_and_says_how_many_do() {
    let gpu = unscheduled("1 Insufficient nvidia.com/gpu");
    let pods = [pod("a", &ended(1, "Error", "x")), pod("c", &gpu), pod("b", &gpu)];
    assert_eq!(
        problem(&pods).unwrap().message,
        "no node can run pod b: 1 Insufficient nvidia.com/gpu; 1 other pod has the same problem"
    );
}

#[test]
fn a_deployment_whose_pods_tell_nothing_is_named() {
    let deployment = |condition: Value| -> Deployment {
        let status = json!({"conditions": [condition]});
        serde_json::from_value(json!({"metadata": {"name": "d"}, "status": status})).unwrap()
    };
    let refused = deployment(json!({
        "type": "ReplicaFailure", "status": "True", "message": "pods \"d-1\" is forbidden: exceeded quota",
    }));
    let empty = deployment(json!({
        "type": "Available", "status": "False", "lastTransitionTime": "2026-01-01T00:05:00Z",
    }));
    let stalled = deployment(json!({
        "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
        "message": "ReplicaSet \"d-1\" has timed out progressing.",
    }));
    let of = |deployment, pods| {
        let problem = Evidence { deployment: Some(deployment), ..evidence(pods) }.problem();
        problem.map(|problem| (problem.reason, problem.message))
    };
    let expected = |reason, message: &str| Some((reason, message.to_owned()));
    assert_eq!(
        of(&refused, &[]),
        expected(
            "PodsRefused",
            "Kubernetes refuses to create a pod: pods \"d-1\" is forbidden: exceeded quota"
        )
    );
    assert_eq!(
        of(&empty, &[]),
        expected(
            "PodsMissing",
            "the Deployment d has no pod since 2026-01-01T00:05:00Z: the controllers of Kubernetes \
             have not created any"
        )
    );
    assert_eq!(
        of(&stalled, &[]),
        expected(
            "RolloutStalled",
            "the Deployment d makes no progress: ReplicaSet \"d-1\" has timed out progressing."
        )
    );
    // A pod that still starts is within its time.
    let starting = [pod("p", &json!({"containerStatuses": [running("2026-01-01T00:09:00Z")]}))];
    assert_eq!((of(&stalled, &starting), of(&empty, &starting)), (None, None));
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
