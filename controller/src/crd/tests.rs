use serde_json::{Value, json};

use super::{ModelFleet, schema};

/// The errors with which the API server would refuse a fleet of this name and spec.
fn refusals(name: &str, spec: &Value) -> Vec<String> {
    let definition = schema::definition().unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let fleet = json!({
        "apiVersion": "batchfleet.dev/v1alpha1",
        "kind": "ModelFleet",
        "metadata": {"name": name},
        "spec": spec,
    });
    match kube_cel::Validator::new().validate(schema, &fleet, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.as_slice().iter().map(|error| error.message.clone()).collect(),
    }
}

/// The smallest valid spec, extended by `more`.
fn spec(more: &Value) -> Value {
    let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
    let mut spec = json!({"model": {"source": source}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[test]
fn a_model_and_its_source_are_enough() {
    assert_eq!(refusals("digits", &spec(&json!({}))), [""; 0]);
    let fleet: ModelFleet = serde_json::from_value(json!({
        "metadata": {"name": "digits"},
        "apiVersion": "batchfleet.dev/v1alpha1",
        "kind": "ModelFleet",
        "spec": spec(&json!({})),
    }))
    .unwrap();
    assert_eq!((fleet.spec.slo.p99_ms, fleet.spec.batch.max), (100, 64));
    assert_eq!((fleet.spec.scaling.min, fleet.spec.scaling.utilization_percent), (1, 88));
}

#[test]
fn contradictions_are_refused_with_a_message_that_says_what_to_change() {
    for (more, complaint) in [
        (json!({"scaling": {"min": 5, "max": 4}}), "scaling.min must not be more than scaling.max"),
        (json!({"scaling": {"min": 0}}), "scaling.min 0 needs scaling.scaleToZeroAfterSeconds"),
        (
            json!({"scaling": {"scaleToZeroAfterSeconds": 600}}),
            "scaling.scaleToZeroAfterSeconds has no effect unless scaling.min is 0",
        ),
        (json!({"batch": {"mode": "fixed"}}), "batch.mode fixed needs batch.rows"),
        (json!({"batch": {"rows": 8}}), "batch.rows has no effect with batch.mode auto"),
        (
            json!({"batch": {"mode": "fixed", "rows": 65}}),
            "batch.rows must not be more than batch.max",
        ),
        (json!({"batch": {"sizes": [1, 128]}}), "no size in batch.sizes may be more"),
        (json!({"batch": {"padSizes": [16]}}), "have no effect without batch.pad"),
        (json!({"batch": {"cut": ["logits:1"]}}), "have no effect without batch.pad"),
        (
            json!({"model": {"sha256": "0f".repeat(32), "source": {"image": {"reference": "m:1"}}}}),
            "model.sha256 applies to one version: set model.version",
        ),
        (json!({"replicas": 11}), "replicas must not be more than scaling.max"),
        (json!({"worker": {"executionProvider": "cuda"}}), "cuda and tensorrt need worker.gpu"),
        (
            json!({"worker": {"executionProvider": "tensorrt", "gpu": {}}}),
            "tensorrt needs worker.image with TensorRT",
        ),
        (
            json!({"worker": {"executionProvider": "tensorrt", "gpu": {}, "image": "b/worker-cuda:1"}}),
            "tensorrt needs worker.image with TensorRT",
        ),
        (
            json!({"worker": {"executionProvider": "cuda", "gpu": {"count": 2, "resource": "nvidia.com/mig-1g.5gb"}}}),
            "worker.gpu.count must be 1 with parts of a GPU",
        ),
        (
            json!({"worker": {"executionProvider": "cuda", "gpu": {}, "engineCache": {"claimName": "e"}}}),
            "worker.engineCache has no effect without worker.executionProvider tensorrt",
        ),
        (json!({"worker": {"gpu": {}}}), "worker.gpu has no effect with worker.executionProvider"),
        (
            json!({"worker": {"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}}),
            "worker.requests must not be more than worker.limits",
        ),
        (
            json!({"worker": {"requests": {"memory": "1Gi"}, "limits": {"memory": "1000M"}}}),
            "worker.requests must not be more than worker.limits",
        ),
    ] {
        let refusals = refusals("digits", &spec(&more));
        assert!(
            refusals.len() == 1 && refusals[0].contains(complaint),
            "{more} is refused with {refusals:?}, not {complaint:?}"
        );
    }
}

#[test]
fn valid_combinations_are_accepted() {
    for more in [
        json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 600}}),
        json!({"scaling": {"min": 4, "max": 4, "mode": "direct"}}),
        json!({"batch": {"mode": "fixed", "rows": 64}}),
        json!({"batch": {"sizes": [1, 8, 64]}}),
        json!({"batch": {"pad": ["ids:1=0", "n=-1.5"], "padSizes": [16], "cut": ["logits:1"]}}),
        json!({"replicas": 0}),
        json!({"worker": {"executionProvider": "cuda", "gpu": {"count": 2}}}),
        json!({"worker": {"executionProvider": "tensorrt", "image": "r/worker-tensorrt:1", "gpu": {}}}),
        json!({"worker": {"executionProvider": "tensorrt", "image": "my/own:1", "gpu": {}}}),
        json!({"worker": {"executionProvider": "tensorrt", "image": "my/own:1", "gpu": {}, "engineCache": {"claimName": "e"}}}),
        json!({"worker": {"requests": {"cpu": "1500m"}, "limits": {"cpu": 2, "memory": "1Gi"}}}),
        json!({"worker": {"requests": {"cpu": 1, "memory": "1G"}, "limits": {"memory": "1Gi"}}}),
        json!({"worker": {"requests": {"memory": "4Gi"}, "limits": {"cpu": 2}}}),
    ] {
        assert_eq!(refusals("digits", &spec(&more)), [""; 0], "{more}");
    }
}

#[test]
fn a_name_that_is_too_long_for_pods_is_refused() {
    let refusals = refusals(&"x".repeat(41), &spec(&json!({})));
    assert!(refusals.iter().any(|why| why.contains("40 characters")), "{refusals:?}");
}

#[test]
fn numbers_have_no_format_that_kubernetes_warns_about() {
    assert!(!schema::yaml().unwrap().contains("format: uint"));
}

/// The part of the definition at a pointer below `properties` of the spec.
fn field(pointer: &str) -> Value {
    let definition = schema::definition().unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let field = schema["properties"]["spec"]["properties"].pointer(pointer);
    field.unwrap_or_else(|| panic!("{pointer} is not in {schema}")).clone()
}

#[test]
fn amounts_and_policies_that_the_api_server_would_refuse_later_are_refused_at_once() {
    let source = "/model/properties/source/properties";
    for pointer in [
        "/worker/properties/requests/additionalProperties",
        "/worker/properties/limits/additionalProperties",
        &format!("{source}/emptyDir/properties/sizeLimit"),
        &format!("{source}/objectStore/properties/sizeLimit"),
    ] {
        let amount = field(pointer);
        assert_eq!(amount["x-kubernetes-int-or-string"], true, "{amount}");
        assert_eq!(amount["pattern"], super::pod::QUANTITY, "{pointer}: {amount}");
    }
    let policies = &field(&format!("{source}/image/properties/pullPolicy"))["enum"];
    assert_eq!(*policies, json!(["Always", "IfNotPresent", "Never", null]));
}

#[test]
fn the_descriptions_of_modes_tell_what_each_mode_does() {
    for (pointer, modes) in [
        ("/scaling/properties/mode", &["`hpa`", "`direct`", "`external`"][..]),
        ("/batch/properties/mode", &["`auto`", "`fixed`"][..]),
    ] {
        let description = field(pointer)["description"].as_str().unwrap().to_owned();
        assert!(modes.iter().all(|mode| description.contains(mode)), "{pointer}: {description}");
    }
}
