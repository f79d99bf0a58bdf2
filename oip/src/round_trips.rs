//! Round trips: a tensor is the same as JSON and as binary data, responses contain what the model
//! returned, and no body makes the parser panic.

use batchfleet_broker::{Datatype, Tensor};
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use crate::{
    infer::{HeaderLength, WantedOutput, parse},
    response::{Encoded, encode},
    samples::{binary, model, parsed, request, simple, tensor},
};

/// The response with this output, as JSON or as binary data.
fn answer(tensor: &Tensor, binary: bool) -> Encoded {
    let wanted = [WantedOutput { name: tensor.name.clone(), binary, classes: 0 }];
    encode(&simple(tensor.datatype), Some("id"), &wanted, std::slice::from_ref(tensor)).unwrap()
}

fn output(datatype: Datatype, data: &[u8]) -> Tensor {
    let count = datatype.size().map_or(1, |size| data.len() / size) as u64;
    Tensor { name: "y".into(), datatype, shape: vec![1, count], data: data.to_vec().into() }
}

/// Makes the bytes a valid tensor of this datatype: finite floats, BOOL 0 or 1, one UTF-8 element.
fn valid(datatype: Datatype, mut bytes: Vec<u8>, text: &str) -> Vec<u8> {
    match datatype {
        Datatype::Bool => bytes.iter_mut().for_each(|byte| *byte &= 1),
        Datatype::Fp32 => bytes.chunks_exact_mut(4).for_each(|float| float[3] &= 0xbf),
        Datatype::Fp64 => bytes.chunks_exact_mut(8).for_each(|float| float[7] &= 0xbf),
        Datatype::Bytes => {
            let length = u32::try_from(text.len()).unwrap();
            return [&length.to_le_bytes()[..], text.as_bytes()].concat();
        }
        _ => {}
    }
    bytes
}

proptest! {
    #[test]
    fn every_datatype_is_the_same_as_json_and_as_binary_data(
        words in vec(any::<u64>(), 0..6), text in "\\PC{0,8}|[\\x00-\\x1f\"\\\\]{0,4}"
    ) {
        for datatype in Datatype::ALL {
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let tensor = output(datatype, &valid(datatype, bytes, &text));
            let shape = serde_json::to_string(&tensor.shape).unwrap();

            // Written as binary data, and read back.
            let Encoded { json_length, body } = answer(&tensor, true);
            let body = body.concat();
            let data = &body[json_length.unwrap_or(body.len())..];
            prop_assert_eq!(data, &tensor.data);
            let (body, header) = binary(datatype, &shape, data);
            let model = simple(datatype);
            let back = parse(&body, header, &model).unwrap();
            prop_assert_eq!(&back.inputs[0].data, &tensor.data);

            // Written as JSON, and read back.
            if !matches!(datatype, Datatype::Fp16 | Datatype::Bf16) {
                let text: Value = serde_json::from_slice(&answer(&tensor, false).body.concat()).unwrap();
                let body = answer(&tensor, false).body.concat();
                let body = std::str::from_utf8(&body).unwrap();
                let start = body.find("\"data\":").unwrap() + "\"data\":".len();
                let data = &body[start..body.len() - "}]}".len()];
                let back = parsed(&model, request(datatype, &shape, data)).unwrap();
                prop_assert_eq!(&back.inputs[0].data, &tensor.data, "{} {}", datatype, text);
            }
        }
    }

    #[test]
    fn no_body_makes_the_parser_panic(
        datatype in 0..Datatype::ALL.len(), length in 0..200usize,
        edits in vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(b'"'), Just(b'['),
            Just(b'}'), Just(b'9'), Just(b'-'), Just(b'\\'), Just(b'e')]), 0..4),
        insertions in vec((any::<prop::sample::Index>(), "[\\[\\]{}:,0-9eE\"-]{1,3}"), 0..3),
    ) {
        let datatype = Datatype::ALL[datatype];
        let (body, header) = binary(datatype, "[2, 2]", &[0; 16]);
        let json = request(datatype, "[2,2]", "[[1, 0.5],[\"\\u00e9\", true]]");
        for (start, header) in [(body.to_vec(), header), (json.into(), HeaderLength::Absent)] {
            let mut body = start;
            for (at, byte) in &edits {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            for (at, text) in &insertions {
                let at = at.index(body.len());
                body.splice(at..at, text.bytes());
            }
            let body = Bytes::from(body);
            for header in [header, HeaderLength::Absent, HeaderLength::Raw, HeaderLength::Json(length)] {
                if let Err(problem) = parse(&body, header, &simple(datatype)) {
                    prop_assert_eq!(problem.status, 400);
                }
            }
        }
    }
}

#[test]
fn a_response_has_model_version_id_and_flat_outputs() {
    let tensor = output(Datatype::Fp32, &[0.1f32, -0.0].map(f32::to_le_bytes).concat());
    let Encoded { json_length, body } = answer(&tensor, false);
    assert_eq!(json_length, None);
    assert_eq!(
        String::from_utf8(body.concat()).unwrap(),
        r#"{"model_name":"sample","model_version":"7","id":"id","outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[0.1,-0.0]}]}"#
    );
}

#[test]
fn binary_outputs_follow_the_json_in_the_same_order() {
    let outputs = ["y", "z", "w"].map(|name| Tensor {
        name: name.into(),
        datatype: Datatype::Uint8,
        shape: vec![1, 1],
        data: name.as_bytes().to_vec().into(),
    });
    let byte = |name| tensor(name, Datatype::Uint8, &[-1, 1]);
    let model = model(vec![], vec![byte("y"), byte("z"), byte("w")]);
    let wanted = [("w", true), ("z", false), ("y", true)].map(|(name, binary)| WantedOutput {
        name: name.into(),
        binary,
        classes: 0,
    });
    let Encoded { json_length, body } = encode(&model, None, &wanted, &outputs).unwrap();
    let body = body.concat();
    let (json, tail) = body.split_at(json_length.unwrap());
    assert_eq!(tail, b"wy");
    let json: Value = serde_json::from_slice(json).unwrap();
    assert!(json.get("id").is_none());
    assert_eq!(json["outputs"][0]["parameters"], json!({"binary_data_size": 1}));
    assert_eq!(json["outputs"][1]["data"], json!([b'z']));
}

#[test]
fn large_binary_outputs_are_shared_and_small_ones_copied() {
    let sizes = [("y", 10), ("z", 300_000), ("w", 20)];
    let outputs = sizes.map(|(name, size)| Tensor {
        name: name.into(),
        datatype: Datatype::Uint8,
        shape: vec![1, size as u64],
        data: vec![7; size].into(),
    });
    let model =
        model(vec![], sizes.map(|(name, _)| tensor(name, Datatype::Uint8, &[-1, -1])).into());
    let wanted =
        sizes.map(|(name, _)| WantedOutput { name: name.into(), binary: true, classes: 0 });
    let Encoded { json_length, body } = encode(&model, None, &wanted, &outputs).unwrap();
    let lengths: Vec<_> = body.iter().map(Bytes::len).collect();
    assert_eq!(lengths, [json_length.unwrap() + 10, 300_000, 20]);
    assert_eq!(body[1].as_ptr(), outputs[1].data.as_ptr());
}

#[test]
fn empty_binary_outputs_need_no_header() {
    let Encoded { json_length, body } = answer(&output(Datatype::Fp32, &[]), true);
    assert_eq!(json_length, None);
    let json: Value = serde_json::from_slice(&body.concat()).unwrap();
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 0);
}

#[test]
fn b60_nan_and_infinities_are_null_and_counted() {
    let data = [1.5f32, f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(f32::to_le_bytes).concat();
    let body = answer(&output(Datatype::Fp32, &data), false).body.concat();
    let json: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(json["outputs"][0]["data"], json!([1.5, null, null, null]));
    assert_eq!(json["outputs"][0]["parameters"], json!({"non_finite": 3}));
}

#[test]
fn an_output_without_json_form_is_refused_with_a_hint_at_binary_data() {
    let wanted = [WantedOutput { name: "y".into(), binary: false, classes: 0 }];
    for (datatype, data) in [(Datatype::Bytes, &b"\x01\0\0\0\xff"[..]), (Datatype::Fp16, &[0, 0])] {
        let tensor = output(datatype, data);
        let problem = encode(&simple(datatype), None, &wanted, &[tensor]).unwrap_err();
        assert_eq!((problem.status, problem.code), (400, "unsupported"));
        assert!(problem.message.contains("binary_data"), "{problem}");
    }
}

#[test]
fn a_malformed_output_of_the_model_is_a_server_error() {
    let wanted = [WantedOutput { name: "y".into(), binary: false, classes: 0 }];
    let short = Tensor { data: Bytes::from_static(b"abc"), ..output(Datatype::Fp32, &[0; 8]) };
    let model = simple(Datatype::Fp32);
    assert_eq!(encode(&model, None, &wanted, &[short]).unwrap_err().status, 500);
    assert_eq!(encode(&model, None, &wanted, &[]).unwrap_err().status, 500);
}
