use batchfleet_broker::Datatype::{Fp32, Int64};
use serde_json::json;

use super::*;

fn served(text: &str, inputs: &[&[i64]]) -> Result<(ModelConfig, ModelSpec), String> {
    let config = ModelConfig::parse(text).unwrap();
    let input =
        |(index, shape): (usize, &&[i64])| TensorSpec::new(format!("X{index}"), Fp32, *shape);
    let inputs = inputs.iter().enumerate().map(input).collect();
    let label = TensorSpec::new("label", Int64, [-1, 1]);
    let outputs = vec![ModelOutput { name: "label".to_owned(), spec: Ok(label) }];
    let served = config.served(QueueName::new("m", 3), inputs, outputs, 64)?;
    Ok((config, served.spec))
}

#[test]
fn a_model_batches_if_its_tensors_and_its_config_allow() {
    for (text, inputs, expected) in [
        ("", &[&[-1, 3][..]][..], 64),
        ("max_batch_size: 8", &[&[-1, 3]], 8),
        ("max_batch_size: 0", &[&[-1, 3]], 0),
        ("", &[&[4, 3]], 0),
        ("", &[], 0),
    ] {
        let (_, spec) = served(text, inputs).unwrap();
        assert_eq!(spec.max_batch, NonZeroU32::new(expected), "{text} {inputs:?}");
    }
    let error = served("max_batch_size: 8", &[&[-1, 3], &[4, 3]]).unwrap_err();
    assert!(
        error.starts_with(
            "config.pbtxt says max_batch_size 8, but input \"X1\" has the shape [4, 3], without a \
             first dimension of any size for the rows; max_batch_size: 0"
        ),
        "{error}"
    );
}

#[test]
fn notes_say_why_requests_are_not_joined_and_what_has_no_effect() {
    let notes = |text: &str, inputs: &[&[i64]]| {
        let (config, spec) = served(text, inputs).unwrap();
        config.notes(&spec)
    };
    assert!(notes("", &[&[-1, 3]]).is_empty());
    assert_eq!(
        notes("", &[&[4, 3]]),
        ["each request runs in a batch of its own, because input \"X0\" has the shape [4, 3], \
          without a first dimension of any size for the rows"]
    );
    assert_eq!(
        notes("max_batch_size: 0 response_cache { enable: true }", &[&[-1, 3]]),
        [
            "each request runs in a batch of its own, because max_batch_size is 0 in config.pbtxt",
            "response_cache in config.pbtxt has no effect, because answers are not cached",
        ]
    );
}

#[test]
fn the_config_is_shown_with_the_values_in_effect() {
    let (config, spec) = served("", &[&[-1, 3]]).unwrap();
    let shown = config.in_effect(&spec, Duration::from_millis(2));
    assert_eq!(shown["name"], "m");
    assert_eq!(shown["platform"], "onnxruntime_onnx");
    assert_eq!(shown["backend"], "onnxruntime");
    assert_eq!(shown["max_batch_size"], 64);
    assert_eq!(shown["version_policy"], json!({"latest": {"num_versions": 1}}));
    assert_eq!(shown["default_model_filename"], "model.onnx");
    assert_eq!(shown["dynamic_batching"]["max_queue_delay_microseconds"], 2000);
    assert_eq!(shown["instance_group"][0]["count"], 1);
    let input = &shown["input"][0];
    assert_eq!((&input["name"], &input["dims"]), (&json!("X0"), &json!([3])));
    assert_eq!(
        (&input["data_type"], &input["format"]),
        (&json!("TYPE_FP32"), &json!("FORMAT_NONE"))
    );
    assert_eq!((&input["optional"], input.get("reshape")), (&json!(false), None));
    assert_eq!(shown["output"][0]["data_type"], "TYPE_INT64");
}

#[test]
fn the_config_is_shown_as_it_was_written() {
    let text = r#"
        max_batch_size: 0
        input { name: "X0" data_type: TYPE_FP32 dims: [ 12 ] reshape { shape: [ 4, 3 ] } }
        output { name: "label" data_type: TYPE_INT64 dims: [ -1, 1 ] label_filename: "l.txt" }
        version_policy { specific { versions: [ 3, 4 ] } }
        instance_group { count: 2 kind: KIND_CPU }
        parameters { key: "a" value { string_value: "b" } }
        optimization { graph { level: -1 } }
        "#;
    let (config, spec) = served(text, &[&[-1, 3]]).unwrap();
    let shown = config.in_effect(&spec, Duration::ZERO);
    assert_eq!(shown["max_batch_size"], 0);
    assert_eq!(shown["input"][0]["dims"], json!([12]));
    assert_eq!(shown["input"][0]["reshape"]["shape"], json!([4, 3]));
    assert_eq!(shown["output"][0]["dims"], json!([-1, 1]));
    assert_eq!(shown["output"][0]["label_filename"], "l.txt");
    assert_eq!(shown["version_policy"], json!({"specific": {"versions": [3, 4]}}));
    assert_eq!(shown["instance_group"][0]["kind"], "KIND_CPU");
    assert_eq!(shown["parameters"], json!({"a": {"string_value": "b"}}));
    assert_eq!(shown["optimization"]["graph"]["level"], -1);
    assert!(shown.get("dynamic_batching").is_none());
}
