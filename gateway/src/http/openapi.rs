//! Tests that `openapi.json` describes the responses of this program.

use std::{collections::HashSet, time::Duration};

use batchfleet_broker::{
    Announcement, Batching, Datatype, ModelSpec, QueueName, RecentBatch, Tensor, TensorSpec,
    WorkerId,
};
use serde::Serialize;
use serde_json::Value;

use crate::explain::{Explanation, ObservedQueue};
use batchfleet_oip::{
    infer::WantedOutput,
    metadata, response,
    statistics::{BatchStatistics, ModelStatistics, report},
};

/// A model with one input and one output, each with one open dimension after the batch dimension.
fn simple(datatype: Datatype) -> ModelSpec {
    let tensor = |name: &str, datatype| TensorSpec::new(name, datatype, [-1, -1]);
    ModelSpec {
        queue: QueueName::new("sample", 7),
        platform: "onnxruntime_onnx".into(),
        backend: "onnxruntime".into(),
        max_batch: std::num::NonZeroU32::new(4),
        inputs: vec![tensor("x", datatype)],
        outputs: vec![tensor("y", Datatype::Fp32)],
    }
}

fn document() -> Value {
    serde_json::from_str(include_str!("../../openapi.json")).unwrap()
}

/// The target of a `$ref`, or the value itself.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(name) => {
            let target = document.pointer(name.strip_prefix('#').unwrap());
            target.unwrap_or_else(|| panic!("{name} is not in the document"))
        }
        None => value,
    }
}

/// Every object in a JSON value.
fn objects<'a>(value: &'a Value, visit: &mut impl FnMut(&'a Value)) {
    match value {
        Value::Object(fields) => {
            visit(value);
            fields.values().for_each(|value| objects(value, visit));
        }
        Value::Array(values) => values.iter().for_each(|value| objects(value, visit)),
        _ => {}
    }
}

/// Asserts that a value has all fields that its schema requires, and no unknown fields.
fn conforms(document: &Value, value: &Value, schema: &Value) {
    let schema = resolve(document, schema);
    match value {
        Value::Object(fields) => {
            let Some(known) = schema.get("properties") else { return };
            for (name, value) in fields {
                let schema = known.get(name).unwrap_or_else(|| panic!("{name} not in {schema}"));
                conforms(document, value, schema);
            }
            for required in schema["required"].as_array().into_iter().flatten() {
                assert!(fields.contains_key(required.as_str().unwrap()), "{required} in {value}");
            }
        }
        Value::Array(values) => {
            for value in values {
                conforms(document, value, &schema["items"]);
            }
        }
        _ => {}
    }
}

fn check(schema: &str, value: impl Serialize) {
    let document = document();
    let value = serde_json::to_value(value).unwrap();
    conforms(&document, &value, &document["components"]["schemas"][schema]);
}

#[test]
fn every_reference_resolves_and_every_operation_has_its_own_name() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    objects(&document, &mut |value| {
        resolve(&document, value);
    });
    let mut names = HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(names.insert(operation["operationId"].as_str().unwrap()), "{method} {path}");
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let named: HashSet<_> = parameters
                .map(|parameter| resolve(&document, parameter))
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| format!("{{{}}}", parameter["name"].as_str().unwrap()))
                .collect();
            let wanted = path.split('/').filter(|part| part.starts_with('{')).map(str::to_owned);
            assert_eq!(named, wanted.collect(), "{path}");
        }
    }
}

fn batching() -> Explanation {
    let worker = Announcement {
        batching: Some(Batching {
            curve: vec![(1, 0.5)],
            recent: vec![RecentBatch {
                rows: 1,
                padding: 0,
                limit: 1,
                ms: 0.5,
                release: "full".to_owned(),
            }],
            ..Batching::default()
        }),
        ..Announcement::new(WorkerId(1), simple(Datatype::Fp32))
    };
    Explanation::of(&worker.model.queue.clone(), ObservedQueue::default(), [&worker].into_iter())
}

#[test]
fn every_response_conforms_to_its_schema() {
    let model = simple(Datatype::Fp32);
    let mut counted = ModelStatistics::default();
    counted.inference.success.add(Duration::from_millis(1));
    counted.batches.push(BatchStatistics::default());
    check("ServerMetadata", metadata::server());
    check("ModelMetadata", metadata::model(&model, &[7]));
    check("ModelConfig", metadata::config(&model));
    check("Statistics", report([(&model.queue, &counted)]));
    check("Batching", batching());
    check("IndexEntry", metadata::IndexEntry::ready("sample", 7));
    for binary in [true, false] {
        let data = f32::NAN.to_le_bytes().to_vec().into();
        let output = Tensor { name: "y".into(), datatype: Datatype::Fp32, shape: vec![1, 1], data };
        let wanted = [WantedOutput { name: "y".into(), binary, classes: 0 }];
        let answer = response::encode(&model, Some("id"), &wanted, &[output]).unwrap();
        let body = answer.body.concat();
        let json = &body[..answer.json_length.unwrap_or(body.len())];
        check("InferResponse", serde_json::from_slice::<Value>(json).unwrap());
    }
}

#[test]
fn every_datatype_is_listed() {
    let names: Vec<_> = Datatype::ALL.map(Datatype::name).into();
    assert_eq!(document()["components"]["schemas"]["Datatype"]["enum"], serde_json::json!(names));
}
