use std::num::NonZeroU32;

use batchfleet_broker::{QueueName, Tensor, TensorSpec};

use super::*;
use crate::batch::examples::delivery;

fn encoder() -> ModelSpec {
    let ids = |name| TensorSpec::new(name, Datatype::Int64, [-1, -1]);
    ModelSpec {
        queue: QueueName::new("m", 1),
        platform: String::new(),
        backend: String::new(),
        max_batch: NonZeroU32::new(64),
        inputs: vec![ids("input_ids"), ids("attention_mask")],
        outputs: vec![
            TensorSpec::new("states", Datatype::Fp32, [-1, -1, 384]),
            TensorSpec::new("pooled", Datatype::Fp32, [-1, 384]),
        ],
    }
}

fn declared(parameters: &[(&str, &str)], model: &ModelSpec) -> Result<Option<Padding>, String> {
    let parameters = parameters.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
    Padding::declared(&parameters.collect(), model, &Graph::default())
}

fn job(shapes: &[(&str, [u64; 2])]) -> Job {
    let mut job = delivery(0, 1, 1).job;
    let tensor = |&(name, shape): &(&str, [u64; 2])| Tensor {
        name: name.to_owned(),
        shape: shape.to_vec(),
        ..job.inputs[0].clone()
    };
    job.inputs = shapes.iter().map(tensor).collect();
    job
}

#[test]
fn inputs_outputs_and_sizes_are_read() {
    let parameters =
        [("pad", "input_ids:1=7, attention_mask:1=0"), ("pad_sizes", "64 16"), ("cut", "states:1")];
    let padding = declared(&parameters, &encoder()).unwrap().unwrap();
    assert_eq!(padding.to("input_ids", 9).unwrap().fill, 7_i64.to_le_bytes());
    assert_eq!((padding.axis("attention_mask"), padding.axis("other")), (Some(1), None));
    assert_eq!((padding.cut_axis("states"), padding.cut_axis("pooled")), (Some(1), None));
    let targets = [1, 16, 17, 65].map(|length| padding.target(length));
    assert_eq!(targets, [16, 16, 64, 65], "no size is large enough for 65");
    assert_eq!(declared(&[], &encoder()), Ok(None));
}

#[test]
fn inputs_of_different_lengths_are_not_padded() {
    let padding = declared(&[("pad", "input_ids:1=0 attention_mask:1=0")], &encoder());
    let padding = padding.unwrap().unwrap();
    let of = |ids, mask| padding.length(&job(&[("input_ids", ids), ("attention_mask", mask)]));
    assert_eq!(of([1, 5], [1, 5]), Some(5));
    assert_eq!(of([1, 5], [1, 6]), None);
    assert_eq!(padding.length(&job(&[("other", [1, 5])])), None);
}

#[test]
fn mistakes_name_the_parameter_and_what_to_write() {
    for (parameters, problem) in [
        (&[("pad", "input_ids")][..], "write INPUT:DIMENSION=VALUE"),
        (&[("pad", "ids:1=0")], "names input \"ids\", which the model does not have"),
        (&[("pad", "input_ids:0=0")], "only open dimensions other than the rows"),
        (&[("pad", "input_ids:2=0")], "whose shape is [-1, -1]"),
        (&[("pad", "input_ids:1=x")], "the value \"x\", which is no INT64"),
        (&[("pad", "sequence=0")], "no dimension of an input has the name \"sequence\""),
        (&[("pad", " ")], "the parameter pad is empty"),
        (&[("cut", "states:1")], "the parameter cut needs the parameter pad"),
        (&[("pad", "input_ids:1=0"), ("cut", "states")], "write OUTPUT:DIMENSION"),
        (&[("pad", "input_ids:1=0"), ("cut", "pooled:1")], "only open dimensions"),
        (&[("pad", "input_ids:1=0"), ("pad_sizes", "16 0")], "has \"0\" instead of a length"),
    ] {
        let error = declared(parameters, &encoder()).unwrap_err();
        assert!(error.contains(problem), "{parameters:?}: {error}");
    }
    let single = ModelSpec { max_batch: None, ..encoder() };
    assert_eq!(declared(&[("pad", "input_ids:1=0")], &single), Ok(None));
}

#[test]
fn values_of_every_datatype_are_encoded() {
    for (datatype, text, bytes) in [
        (Datatype::Fp32, "-1.5", (-1.5_f32).to_le_bytes().to_vec()),
        (Datatype::Fp16, "1", vec![0, 60]),
        (Datatype::Uint8, "255", vec![255]),
        (Datatype::Bool, "true", vec![1]),
        (Datatype::Bytes, "", vec![0; 4]),
        (Datatype::Bytes, "ab", b"\x02\0\0\0ab".to_vec()),
    ] {
        assert_eq!(element(datatype, text), Some(bytes), "{datatype} {text}");
    }
    assert_eq!(element(Datatype::Uint8, "256"), None);
    assert_eq!(element(Datatype::Bool, "2"), None);
}

#[test]
fn the_usual_export_of_a_text_encoder_is_recognised() {
    let parameters = suggestion(&encoder(), &Graph::default()).unwrap();
    assert!(Padding::declared(&parameters, &encoder(), &Graph::default()).unwrap().is_some());
    assert_eq!(
        lines(&parameters),
        "parameters { key: \"cut\" value { string_value: \"states:1\" } }\n\
         parameters { key: \"pad\" value { string_value: \"input_ids:1=0 attention_mask:1=0\" } }"
    );
    let mut more = parameters;
    assert!(also_cut(&mut more, "mask") && !also_cut(&mut more, "states"));
    assert_eq!(more["cut"], "states:1 mask:1");
    let mut other = encoder();
    other.inputs.push(TensorSpec::new("pixels", Datatype::Fp32, [-1, 3, -1, -1]));
    assert_eq!(suggestion(&other, &Graph::default()), None);
    let closed = TensorSpec::new("input_ids", Datatype::Int64, [-1, 128]);
    let fixed = ModelSpec { inputs: vec![closed], ..encoder() };
    assert_eq!(suggestion(&fixed, &Graph::default()), None);
}
