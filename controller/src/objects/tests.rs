use std::collections::BTreeMap;

use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;

const SIZE: FleetSize = FleetSize { floor: 3, depth_per_worker: 128, may_grow: true };

/// A fleet called `digits`, with the smallest valid spec extended by `changes`.
fn fleet(changes: &Value) -> ModelFleet {
    let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
    let mut spec = json!({"model": {"source": source}});
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "batchfleet.dev/v1alpha1",
        "kind": "ModelFleet",
        "metadata": {"name": "digits", "namespace": "ml", "uid": "1234"},
        "spec": spec,
    }))
    .unwrap()
}

fn defaults(redis: WorkerRedis) -> WorkerDefaults {
    let monitor_labels = BTreeMap::from([("release".to_owned(), "prometheus".to_owned())]);
    WorkerDefaults {
        image: "worker:1".to_owned(),
        redis,
        redis_tls: None,
        redises: None,
        workers_per_shard: None,
        user: Some(65_532),
        trace_endpoint: Some("http://collector:4318/".to_owned()),
        monitor_labels,
        monitor_interval: Some("15s".to_owned()),
    }
}

fn objects(changes: &Value) -> FleetObjects {
    let redis = WorkerRedis::Url("redis://redis:6379/0".to_owned());
    FleetObjects::of(&fleet(changes), SIZE, &defaults(redis))
}

fn deployment(changes: &Value) -> Value {
    serde_json::to_value(objects(changes).deployment).unwrap()
}

fn pod(changes: &Value) -> Value {
    deployment(changes)["spec"]["template"]["spec"].clone()
}

fn worker(changes: &Value) -> Value {
    pod(changes)["containers"][0].clone()
}

#[test]
fn workers_are_replaced_when_the_number_of_redises_changes() {
    let of = |redises| {
        let redis = WorkerRedis::Url("redis://redis:6379/0".to_owned());
        let redises = std::num::NonZeroUsize::new(redises);
        let defaults = WorkerDefaults { redises, workers_per_shard: redises, ..defaults(redis) };
        let objects = FleetObjects::of(&fleet(&json!({})), SIZE, &defaults);
        serde_json::to_value(objects.deployment).unwrap()["spec"]["template"].clone()
    };
    let annotation =
        |redises| of(redises)["metadata"]["annotations"]["batchfleet.dev/redises"].clone();
    assert_eq!([annotation(0), annotation(3)], [Value::Null, json!("3")]);
    let args = of(3)["spec"]["containers"][0]["args"].to_string();
    assert!(args.contains("--workers-per-shard=3"), "{args}");
}

#[test]
fn the_deployment_has_replicas_only_in_direct_mode() {
    for (mode, replicas) in [("hpa", Value::Null), ("external", Value::Null), ("direct", json!(3))]
    {
        let deployment = deployment(&json!({"scaling": {"mode": mode}}));
        assert_eq!(deployment["spec"]["replicas"], replicas, "{mode}");
    }
}

#[test]
fn there_is_an_autoscaler_only_in_hpa_mode() {
    for (mode, there) in [("hpa", true), ("external", false), ("direct", false)] {
        let objects = objects(&json!({"scaling": {"mode": mode}}));
        assert_eq!(objects.autoscaler.is_some(), there, "{mode}");
    }
}

#[test]
fn the_autoscaler_adds_workers_to_the_floor_while_jobs_wait() {
    let changes = json!({"scaling": {"max": 24}, "model": {
        "name": "digits_wide", "version": 3, "source": {"image": {"reference": "models:1"}},
    }});
    let spec = serde_json::to_value(objects(&changes).autoscaler.unwrap().spec).unwrap();
    assert_eq!(
        spec,
        json!({
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "digits"},
            "minReplicas": 3,
            "maxReplicas": 24,
            "metrics": [{"type": "External", "external": {
                "metric": {
                    "name": "batchfleet_queue_depth",
                    "selector": {"matchLabels": {"model": "digits_wide", "version": "3"}},
                },
                "target": {"type": "AverageValue", "averageValue": "128"},
            }}],
            "behavior": {
                "scaleUp": {
                    "stabilizationWindowSeconds": 0,
                    "selectPolicy": "Max",
                    "policies": [{"type": "Pods", "value": 24, "periodSeconds": 15}],
                },
                "scaleDown": {"stabilizationWindowSeconds": 300},
            },
        })
    );
}

#[test]
fn the_autoscaler_has_a_floor_of_at_least_one_and_no_range_at_a_fixed_size() {
    let zero = FleetSize { floor: 0, ..SIZE };
    let floor = |plan, changes| {
        let spec = autoscaler::of(&fleet(&changes), plan).spec.unwrap();
        (spec.min_replicas, spec.max_replicas)
    };
    assert_eq!(floor(zero, json!({})), (Some(1), 10));
    assert_eq!(floor(SIZE, json!({"replicas": 3})), (Some(3), 3));
    let too_slow = FleetSize { may_grow: false, ..SIZE };
    assert_eq!(floor(too_slow, json!({})), (Some(3), 3));
    assert_eq!(floor(FleetSize { floor: 0, ..too_slow }, json!({})), (Some(1), 1));
}

#[test]
fn every_object_is_owned_by_its_fleet() {
    let FleetObjects { deployment, autoscaler, budget, monitor } = objects(&json!({}));
    let autoscaler = autoscaler.unwrap();
    for metadata in [deployment.metadata, autoscaler.metadata, budget.metadata, monitor.metadata] {
        let owner = &metadata.owner_references.unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("ModelFleet", "1234"));
        assert_eq!(owner.controller, Some(true));
        assert_eq!(metadata.namespace.as_deref(), Some("ml"));
    }
}

#[test]
fn a_pod_keeps_the_restricted_pod_security_standard() {
    let filled = json!({"model": {"source": {"emptyDir": {"image": "fetch:1"}}}});
    let pod = pod(&filled);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["automountServiceAccountToken"], false);
    for container in [&pod["containers"][0], &pod["initContainers"][0]] {
        assert_eq!(
            container["securityContext"],
            json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            })
        );
    }
}

#[test]
fn the_spec_becomes_the_workers_flags() {
    let changes = json!({
        "slo": {"p99Ms": 50},
        "batch": {
            "mode": "fixed",
            "rows": 16,
            "max": 32,
            "lingerMs": 2,
            "sizes": [8, 16, 32],
            "pad": ["input_ids:1=0", "attention_mask:1=0"],
            "padSizes": [64, 512],
            "cut": ["logits:1"],
        },
        "worker": {"executionProvider": "cuda", "gpu": {}},
    });
    assert_eq!(
        worker(&changes)["args"],
        json!([
            "--redis-url=redis://redis:6379/0",
            "--execution-provider=cuda",
            "--slo-p99=50ms",
            "--batch=16",
            "--max-batch=32",
            "--max-batch-time=10s",
            "--linger=2ms",
            "--drain-timeout=35s",
            "--admin-listen=[::]:9090",
            "--model=digits",
            "--model-repository=/models",
            "--trace-endpoint=http://collector:4318/",
            "--batch-sizes=8,16,32",
            "--pad=input_ids:1=0,attention_mask:1=0",
            "--pad-sizes=64,512",
            "--cut=logits:1",
        ])
    );
}

#[test]
fn a_stopping_worker_has_time_for_three_of_its_longest_batches() {
    let pod = pod(&json!({"batch": {"maxSeconds": 20}}));
    assert!(pod["containers"][0]["args"].to_string().contains("--drain-timeout=65s"));
    assert_eq!(pod["terminationGracePeriodSeconds"], 70);
}

#[test]
fn a_gpu_is_a_limit_and_leaves_no_room_to_surge() {
    let changes = json!({"worker": {
        "executionProvider": "cuda",
        "gpu": {"resource": "nvidia.com/gpu.shared", "count": 2},
        "requests": {"cpu": 2},
        "limits": {"memory": "8Gi"},
    }});
    assert_eq!(
        worker(&changes)["resources"],
        json!({
            "requests": {"cpu": "2"},
            "limits": {"memory": "8Gi", "nvidia.com/gpu.shared": "2"},
        })
    );
    let args = worker(&changes)["args"].clone();
    assert!(args.as_array().unwrap().contains(&json!("--device=0,1")), "{args}");
    let rolling = |changes| deployment(&changes)["spec"]["strategy"]["rollingUpdate"].clone();
    assert_eq!(rolling(changes), json!({"maxSurge": 0, "maxUnavailable": 1}));
    assert_eq!(rolling(json!({})), json!({"maxSurge": 1, "maxUnavailable": 0}));
}

#[test]
fn engines_of_tensorrt_are_kept_on_a_volume_of_all_workers() {
    let changes = json!({"worker": {
        "executionProvider": "tensorrt",
        "gpu": {},
        "image": "r/worker-tensorrt:1",
        "engineCache": {"claimName": "engines", "subPath": "team"},
    }});
    let worker = worker(&changes);
    let args = worker["args"].as_array().unwrap();
    assert!(args.contains(&json!("--engine-cache=/engines")), "{args:?}");
    let mounts = worker["volumeMounts"].as_array().unwrap();
    let mount = json!({"name": "engines", "mountPath": "/engines", "subPath": "team"});
    assert!(mounts.contains(&mount), "{mounts:?}");
    let volumes = pod(&changes)["volumes"].as_array().unwrap().clone();
    let volume = json!({"name": "engines", "persistentVolumeClaim": {"claimName": "engines"}});
    assert!(volumes.contains(&volume), "{volumes:?}");
}

#[test]
fn models_come_from_a_claim_an_image_or_a_filled_volume() {
    for (source, volume, sub_path) in [
        (
            json!({"persistentVolumeClaim": {"claimName": "models", "subPath": "onnx"}}),
            json!({"persistentVolumeClaim": {"claimName": "models", "readOnly": true}}),
            json!("onnx"),
        ),
        (
            json!({"image": {"reference": "models@sha256:1"}}),
            json!({"image": {"reference": "models@sha256:1"}}),
            Value::Null,
        ),
        (
            json!({"emptyDir": {"image": "fetch:1", "sizeLimit": "10Gi"}}),
            json!({"emptyDir": {"sizeLimit": "10Gi"}}),
            Value::Null,
        ),
    ] {
        let pod = pod(&json!({"model": {"source": source}}));
        let mut expected = volume;
        expected["name"] = json!("models");
        assert_eq!(pod["volumes"][0], expected);
        let mount = &pod["containers"][0]["volumeMounts"][0];
        assert_eq!((&mount["readOnly"], &mount["subPath"]), (&json!(true), &sub_path));
    }
}

#[test]
fn a_model_is_downloaded_from_an_object_store_with_options_from_a_secret() {
    let pod = pod(&json!({"model": {
        "version": 3,
        "sha256": "0f".repeat(32),
        "source": {"objectStore": {
            "url": "s3://models/vision", "optionsSecret": "store", "sizeLimit": "10Gi",
        }},
    }}));
    assert_eq!(pod["volumes"][0], json!({"name": "models", "emptyDir": {"sizeLimit": "10Gi"}}));
    let secret = json!({"secretName": "store", "defaultMode": 0o440});
    assert_eq!(pod["volumes"][2], json!({"name": "store-options", "secret": secret}));
    let worker = &pod["containers"][0];
    let mounts = &worker["volumeMounts"];
    assert_eq!(mounts[0], json!({"name": "models", "mountPath": "/models", "readOnly": false}));
    assert_eq!(mounts[2]["mountPath"], "/etc/batchfleet/store");
    let args = worker["args"].as_array().unwrap();
    for setting in [
        format!("--model=digits:3@sha256:{}", "0f".repeat(32)),
        "--model-repository=s3://models/vision".to_owned(),
        "--model-cache=/models".to_owned(),
        "--model-repository-options=/etc/batchfleet/store".to_owned(),
    ] {
        assert!(args.contains(&json!(setting)), "{setting} is not in {args:?}");
    }
}

#[test]
fn an_init_container_fills_the_volume_before_the_worker_starts() {
    let source = json!({"emptyDir": {"image": "fetch:1", "args": ["s3://models"]}});
    let filler = &pod(&json!({"model": {"source": source}}))["initContainers"][0];
    assert_eq!((&filler["image"], &filler["args"]), (&json!("fetch:1"), &json!(["s3://models"])));
    let mount = &filler["volumeMounts"][0];
    assert_eq!((&mount["mountPath"], &mount["readOnly"]), (&json!("/models"), &json!(false)));
}

#[test]
fn a_password_for_redis_stays_in_its_secret() {
    let redis = WorkerRedis::Secret { name: "redis".to_owned(), key: "worker".to_owned() };
    let deployment = FleetObjects::of(&fleet(&json!({})), SIZE, &defaults(redis)).deployment;
    let deployment = serde_json::to_value(deployment).unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    let worker = &pod["containers"][0];
    assert_eq!(worker["env"], Value::Null);
    assert_eq!(worker["args"][0], "--redis-url-file=/etc/batchfleet/redis/url");
    assert_eq!(
        worker["volumeMounts"][2],
        json!({"name": "redis", "mountPath": "/etc/batchfleet/redis", "readOnly": true})
    );
    let items = json!([{"key": "worker", "path": "url"}]);
    assert_eq!(
        pod["volumes"][2],
        json!({"name": "redis", "secret": {
            "secretName": "redis", "items": items, "defaultMode": 0o440,
        }})
    );
}

#[test]
fn the_cluster_may_assign_the_user_of_a_pod() {
    let any = || WorkerRedis::Url("redis://redis".to_owned());
    for (user, expected) in [(Some(65_532), Some(65_532)), (None, None)] {
        let defaults = WorkerDefaults { user, ..defaults(any()) };
        let objects = FleetObjects::of(&fleet(&json!({})), SIZE, &defaults);
        let pod = objects.deployment.spec.unwrap().template.spec.unwrap();
        let context = pod.security_context.unwrap();
        assert_eq!([context.run_as_user, context.run_as_group, context.fs_group], [expected; 3]);
        assert_eq!(context.run_as_non_root, Some(true));
    }
}

#[test]
fn certificates_for_redis_are_mounted_from_their_secret() {
    let tls = RedisTls { secret: "redis-tls".to_owned(), ca: true, identity: true };
    let redis = WorkerRedis::Url("rediss://redis:6380/0".to_owned());
    let defaults = WorkerDefaults { redis_tls: Some(tls), ..defaults(redis) };
    let deployment = FleetObjects::of(&fleet(&json!({})), SIZE, &defaults).deployment;
    let pod = serde_json::to_value(deployment).unwrap()["spec"]["template"]["spec"].clone();
    let flags = pod["containers"][0]["args"].as_array().unwrap();
    for (flag, file) in [("ca", "ca.crt"), ("cert", "tls.crt"), ("key", "tls.key")] {
        let flag = json!(format!("--redis-{flag}=/etc/batchfleet/redis-tls/{file}"));
        assert!(flags.contains(&flag), "{flag}: {flags:?}");
    }
    let keys: Vec<_> =
        ["ca.crt", "tls.crt", "tls.key"].map(|key| json!({"key": key, "path": key})).into();
    assert_eq!(
        pod["volumes"][2],
        json!({"name": "redis-tls", "secret": {
            "secretName": "redis-tls", "items": keys, "defaultMode": 0o440,
        }})
    );
}

#[test]
fn overrides_reach_the_pod_but_not_the_labels_that_select_it() {
    let changes = json!({"pod": {
        "labels": {"team": "vision", "batchfleet.dev/fleet": "other"},
        "nodeSelector": {"gpu": "a10"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "runtimeClassName": "nvidia",
    }});
    let template = deployment(&changes)["spec"]["template"].clone();
    let labels = &template["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels[FLEET]), (&json!("vision"), &json!("digits")));
    assert_eq!(template["spec"]["nodeSelector"], json!({"gpu": "a10"}));
    assert_eq!(template["spec"]["tolerations"][0]["key"], "nvidia.com/gpu");
    assert_eq!(template["spec"]["runtimeClassName"], "nvidia");
}

#[test]
fn at_most_a_quarter_of_the_fleet_is_evicted_at_once() {
    let budget = serde_json::to_value(objects(&json!({})).budget.spec).unwrap();
    assert_eq!(
        budget,
        json!({
            "maxUnavailable": "25%",
            "selector": {"matchLabels": {"batchfleet.dev/fleet": "digits"}},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        })
    );
}

#[test]
fn the_workers_of_a_fleet_are_scraped_at_their_admin_port() {
    let monitor = objects(&json!({})).monitor;
    assert_eq!(monitor.labels()["release"], "prometheus");
    assert_eq!(
        serde_json::to_value(monitor).unwrap()["spec"],
        json!({
            "selector": {"matchLabels": {"batchfleet.dev/fleet": "digits"}},
            "podMetricsEndpoints": [{"port": "admin", "path": "/metrics", "interval": "15s"}],
        })
    );
}
