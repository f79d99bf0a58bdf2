//! Messages as the generated code writes and reads them.

use batchfleet_broker::{Datatype, ModelSpec, Priority, Tensor};
use batchfleet_proto::{
    Message,
    inference::{
        InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
        ModelStreamInferResponse,
        infer_parameter::ParameterChoice,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
};
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::{
    request::{Target, parse},
    response,
};
use crate::{
    infer::{InferRequest, WantedOutput},
    problem::Problem,
    samples::{model, simple, tensor, verdict},
};

fn input(datatype: Datatype, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: "x".into(),
        datatype: datatype.name().into(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}

fn raw(datatype: Datatype, shape: &[i64], data: &'static [u8]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "sample".into(),
        inputs: vec![input(datatype, shape)],
        raw_input_contents: vec![Bytes::from_static(data)],
        ..Default::default()
    }
}

fn typed(datatype: Datatype, shape: &[i64], contents: InferTensorContents) -> ModelInferRequest {
    let input = InferInputTensor { contents: Some(contents), ..input(datatype, shape) };
    ModelInferRequest { inputs: vec![input], ..Default::default() }
}

fn read(request: &ModelInferRequest, model: &ModelSpec) -> Result<InferRequest, Problem> {
    parse(&request.encode_to_vec().into(), model)
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

#[test]
fn the_target_is_read_without_the_rest() {
    let request = ModelInferRequest {
        model_version: "3".into(),
        id: "mine".into(),
        ..raw(Datatype::Fp32, &[1, 1], &[0; 4])
    };
    let target = Target::read(&request.encode_to_vec().into()).unwrap();
    assert_eq!((target.name.as_str(), target.version.as_deref()), ("sample", Some("3")));
    assert_eq!(target.id, "mine");
    let unversioned = ModelInferRequest { model_version: String::new(), ..request };
    assert_eq!(Target::read(&unversioned.encode_to_vec().into()).unwrap().version, None);
}

#[test]
fn raw_tensors_are_slices_of_the_message() {
    let message: Bytes = raw(Datatype::Int16, &[1, 2], &[1, 0, 2, 0]).encode_to_vec().into();
    let request = parse(&message, &simple(Datatype::Int16)).unwrap();
    let range = message.as_ptr_range();
    assert!(range.contains(&request.inputs[0].data.as_ptr()));
    assert_eq!(request.inputs[0].data, [1, 0, 2, 0][..]);
    assert_eq!((request.inputs[0].shape.as_slice(), request.rows), (&[1, 2][..], 1));
    assert!(request.outputs[0].binary);
}

#[test]
fn typed_contents_become_the_same_bytes_as_raw_ones() {
    let contents = |datatype| {
        let mut all = InferTensorContents::default();
        match datatype {
            Datatype::Bool => all.bool_contents = vec![true, false],
            Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => all.int_contents = vec![-2, 7],
            Datatype::Int64 => all.int64_contents = vec![-2, 7],
            Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => {
                all.uint_contents = vec![200, 7];
            }
            Datatype::Uint64 => all.uint64_contents = vec![u64::MAX, 7],
            Datatype::Fp32 => all.fp32_contents = vec![-0.5, 7.0],
            Datatype::Fp64 => all.fp64_contents = vec![-0.5, 7.0],
            Datatype::Bytes => all.bytes_contents = vec!["a".into(), "".into()],
            Datatype::Fp16 | Datatype::Bf16 => {}
        }
        all
    };
    for (datatype, bytes) in [
        (Datatype::Bool, vec![1, 0]),
        (Datatype::Int8, vec![254, 7]),
        (Datatype::Int16, vec![254, 255, 7, 0]),
        (Datatype::Int32, [(-2i32).to_le_bytes(), 7i32.to_le_bytes()].concat()),
        (Datatype::Int64, [(-2i64).to_le_bytes(), 7i64.to_le_bytes()].concat()),
        (Datatype::Uint8, vec![200, 7]),
        (Datatype::Uint16, vec![200, 0, 7, 0]),
        (Datatype::Uint32, vec![200, 0, 0, 0, 7, 0, 0, 0]),
        (Datatype::Uint64, [u64::MAX.to_le_bytes(), 7u64.to_le_bytes()].concat()),
        (Datatype::Fp32, [(-0.5f32).to_le_bytes(), 7f32.to_le_bytes()].concat()),
        (Datatype::Fp64, [(-0.5f64).to_le_bytes(), 7f64.to_le_bytes()].concat()),
        (Datatype::Bytes, vec![1, 0, 0, 0, b'a', 0, 0, 0, 0]),
    ] {
        let request = typed(datatype, &[1, 2], contents(datatype));
        let read = read(&request, &simple(datatype)).unwrap();
        assert_eq!(read.inputs[0].data, bytes, "{datatype}");
    }
    for half in [Datatype::Fp16, Datatype::Bf16] {
        let request = typed(half, &[1, 2], contents(Datatype::Fp32));
        assert_eq!(verdict(read(&request, &simple(half))), "unsupported");
    }
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    let fp32 = |contents| typed(Datatype::Fp32, &[1, 2], contents);
    let int8 = |contents| typed(Datatype::Int8, &[1, 2], contents);
    let floats = InferTensorContents { fp32_contents: vec![1.0, 2.0], ..Default::default() };
    let integers = InferTensorContents { int_contents: vec![1, 200], ..Default::default() };
    let mixed =
        ModelInferRequest { raw_input_contents: vec![vec![0; 8].into()], ..fp32(floats.clone()) };
    let short = InferTensorContents { fp32_contents: vec![1.0], ..Default::default() };
    let long = InferTensorContents { fp32_contents: vec![1.0; 3], ..Default::default() };
    let surplus = ModelInferRequest {
        raw_input_contents: vec![vec![0; 8].into(); 2],
        ..raw(Datatype::Fp32, &[1, 2], &[0; 8])
    };
    let empty = ModelInferRequest {
        raw_input_contents: vec![vec![0; 8].into()],
        ..fp32(InferTensorContents::default())
    };
    for (request, datatype, code) in [
        (fp32(floats.clone()), Datatype::Fp32, "ok"),
        (empty, Datatype::Fp32, "ok"),
        (mixed, Datatype::Fp32, "bad_binary"),
        (surplus, Datatype::Fp32, "bad_binary"),
        (fp32(short), Datatype::Fp32, "bad_data"),
        (fp32(long), Datatype::Fp32, "bad_data"),
        (fp32(integers.clone()), Datatype::Fp32, "bad_data"),
        (int8(integers), Datatype::Int8, "bad_data"),
        (fp32(InferTensorContents::default()), Datatype::Fp32, "bad_data"),
        (raw(Datatype::Fp32, &[1, 2], &[0; 7]), Datatype::Fp32, "bad_binary"),
        (raw(Datatype::Fp32, &[1, -2], &[0; 8]), Datatype::Fp32, "bad_shape"),
        (raw(Datatype::Fp32, &[9, 1], &[0; 36]), Datatype::Fp32, "batch_too_large"),
        (raw(Datatype::Fp32, &[i64::MAX, 9], &[0; 8]), Datatype::Fp32, "bad_shape"),
        (raw(Datatype::Bool, &[1, 1], &[2]), Datatype::Bool, "bad_binary"),
        (raw(Datatype::Bytes, &[1, 1], &[9, 0, 0, 0]), Datatype::Bytes, "bad_binary"),
        (raw(Datatype::Fp32, &[1, 2], &[0; 8]), Datatype::Fp64, "bad_datatype"),
        (ModelInferRequest::default(), Datatype::Fp32, "bad_inputs"),
    ] {
        assert_eq!(verdict(read(&request, &simple(datatype))), code, "{request:?}");
    }
    let mut other = raw(Datatype::Fp32, &[1, 2], &[0; 8]);
    other.inputs[0].datatype = "FLOAT".into();
    assert_eq!(verdict(read(&other, &simple(Datatype::Fp32))), "bad_datatype");
    other.inputs[0].datatype = "FP32".into();
    other.inputs[0].name = "y".into();
    assert_eq!(verdict(read(&other, &simple(Datatype::Fp32))), "bad_inputs");
    other.inputs.push(input(Datatype::Fp32, &[1, 2]));
    assert_eq!(verdict(read(&other, &simple(Datatype::Fp32))), "bad_inputs");
}

#[test]
fn parameters_mean_what_they_mean_over_http() {
    let with = |name: &str, choice: ParameterChoice| {
        let mut request = raw(Datatype::Fp32, &[1, 1], &[0; 4]);
        request.parameters.insert(name.into(), parameter(choice));
        read(&request, &simple(Datatype::Fp32))
    };
    let timeout = with("timeout", ParameterChoice::Int64Param(2_000)).unwrap().timeout;
    assert_eq!(timeout, Some(std::time::Duration::from_millis(2)));
    let priority = |choice| with("priority", choice).unwrap().priority;
    assert_eq!(priority(ParameterChoice::Uint64Param(1)), Priority::Critical);
    assert_eq!(priority(ParameterChoice::Int64Param(9)), Priority::Sheddable);
    for (name, choice, code) in [
        ("timeout", ParameterChoice::Int64Param(-1), "bad_parameter"),
        ("timeout", ParameterChoice::DoubleParam(1.0), "bad_parameter"),
        ("timeout", ParameterChoice::StringParam("1".into()), "bad_parameter"),
        ("triton_x", ParameterChoice::BoolParam(true), "bad_parameter"),
        ("triton_enable_empty_final_response", ParameterChoice::BoolParam(true), "ok"),
        ("sequence_id", ParameterChoice::Int64Param(0), "ok"),
        ("sequence_id", ParameterChoice::Int64Param(7), "unsupported"),
        ("sequence_start", ParameterChoice::BoolParam(true), "unsupported"),
        ("shared_memory_region", ParameterChoice::StringParam("r".into()), "unsupported"),
        ("mine", ParameterChoice::DoubleParam(0.5), "ok"),
    ] {
        assert_eq!(verdict(with(name, choice)), code, "{name}");
    }
    let mut many = raw(Datatype::Fp32, &[1, 1], &[0; 4]);
    for at in 0..65 {
        many.parameters.insert(at.to_string(), parameter(ParameterChoice::BoolParam(true)));
    }
    assert_eq!(verdict(read(&many, &simple(Datatype::Fp32))), "bad_parameter");
}

#[test]
fn requested_outputs_and_classes_are_read() {
    let spec = model(
        vec![tensor("x", Datatype::Fp32, &[-1, -1])],
        vec![tensor("y", Datatype::Fp32, &[-1, 3]), tensor("z", Datatype::Fp16, &[-1, 3])],
    );
    let mut request = raw(Datatype::Fp32, &[1, 1], &[0; 4]);
    assert_eq!(read(&request, &spec).unwrap().outputs.len(), 2, "half precision has a raw form");
    let mut wanted = InferRequestedOutputTensor { name: "y".into(), ..Default::default() };
    wanted.parameters.insert("classification".into(), parameter(ParameterChoice::Int64Param(2)));
    request.outputs = vec![wanted];
    let outputs = read(&request, &spec).unwrap().outputs;
    assert_eq!(outputs, [WantedOutput { name: "y".into(), binary: true, classes: 2 }]);
    request.outputs[0].name = "other".into();
    assert_eq!(verdict(read(&request, &spec)), "bad_outputs");
}

#[test]
fn a_message_that_is_cut_or_no_message_at_all_is_refused() {
    let whole = raw(Datatype::Fp32, &[1, 2], &[0; 8]).encode_to_vec();
    for end in 1..whole.len() {
        let cut = Bytes::copy_from_slice(&whole[..end]);
        assert_ne!(verdict(parse(&cut, &simple(Datatype::Fp32))), "ok", "{end}");
    }
    for bytes in [&b"{\"inputs\":[]}"[..], &[0], &[0xff; 11], &[7], &[0x2a, 200]] {
        let message = Bytes::copy_from_slice(bytes);
        assert_eq!(verdict(parse(&message, &simple(Datatype::Fp32))), "bad_message");
    }
}

#[test]
fn responses_are_read_by_the_generated_code() {
    let spec = simple(Datatype::Fp32);
    let large = vec![1; 300 << 10];
    let outputs = [
        Tensor {
            name: "z".into(),
            datatype: Datatype::Uint8,
            shape: vec![1, 2],
            data: Bytes::from_static(&[1, 2]),
        },
        Tensor {
            name: "y".into(),
            datatype: Datatype::Uint8,
            shape: vec![300 << 10],
            data: large.clone().into(),
        },
    ];
    let wanted =
        ["y", "z"].map(|name| WantedOutput { name: name.into(), binary: true, classes: 0 });
    let pieces = response::encode(&spec, Some("id"), &wanted, &outputs).unwrap();
    assert!(pieces.iter().any(|piece| piece.as_ptr() == outputs[1].data.as_ptr()), "not copied");
    let response = ModelInferResponse::decode(pieces.concat().as_slice()).unwrap();
    assert_eq!((response.model_name.as_str(), response.model_version.as_str()), ("sample", "7"));
    assert_eq!((response.id.as_str(), response.outputs[1].name.as_str()), ("id", "z"));
    assert_eq!(response.outputs[0].shape, [300 << 10]);
    assert_eq!(response.raw_output_contents, [Bytes::from(large), Bytes::from_static(&[1, 2])]);
    let pieces = response::encode_streamed(&spec, Some("id"), &wanted, &outputs).unwrap();
    let streamed = ModelStreamInferResponse::decode(pieces.concat().as_slice()).unwrap();
    let inner = streamed.infer_response.unwrap();
    let last = parameter(ParameterChoice::BoolParam(true));
    assert_eq!(inner.parameters["triton_final_response"], last);
    assert_eq!(inner.raw_output_contents, response.raw_output_contents);
    let none = response::encode(&spec, None, &wanted, &outputs[..1]).unwrap_err();
    assert_eq!((none.status, none.code), (500, "internal"));
    let failed = ModelStreamInferResponse::decode(response::error("id", "why")).unwrap();
    assert_eq!(
        (failed.error_message.as_str(), failed.infer_response.unwrap().id.as_str()),
        ("why", "id")
    );
}

proptest! {
    #[test]
    fn no_message_makes_the_reader_panic(bytes in vec(any::<u8>(), 0..200)) {
        let message = Bytes::from(bytes);
        for datatype in Datatype::ALL {
            verdict(parse(&message, &simple(datatype)));
        }
        Target::read(&message).ok();
    }

    #[test]
    fn what_the_generated_code_reads_is_read_alike(
        shape in vec(-1i64..4, 0..4), data in vec(any::<u8>(), 0..40), id in "\\PC{0,5}"
    ) {
        let mut request = raw(Datatype::Uint8, &shape, &[]);
        (request.raw_input_contents, request.id) = (vec![data.clone().into()], id.clone());
        let wanted: i64 = shape.iter().product();
        let fits = shape.len() == 2 && shape[0] > 0 && shape[1] >= 0 && usize::try_from(wanted) == Ok(data.len());
        let read = read(&request, &simple(Datatype::Uint8));
        prop_assert_eq!(read.is_ok(), fits, "{:?}", read);
        if let Ok(read) = read {
            prop_assert_eq!(&read.inputs[0].data[..], &data[..]);
            prop_assert_eq!(read.id.unwrap_or_default(), id);
        }
    }
}
