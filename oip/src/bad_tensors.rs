//! Malformed tensors, and correct tensors that look malformed: datatypes, shapes, data, binary
//! data. The B numbers are the same as in `verify/conformance/bad_inputs`, which tests a running
//! gateway.

use batchfleet_broker::{Datatype, ModelSpec};
use bytes::Bytes;

use crate::{
    infer::{HeaderLength, parse},
    samples::{binary, model, parsed, request, simple, tensor, verdict},
};

/// The verdict on an input written as JSON.
fn json(datatype: Datatype, shape: &str, data: &str) -> &'static str {
    verdict(parsed(&simple(datatype), request(datatype, shape, data)))
}

/// The verdict on a body with the header length `header`.
fn cut(model: &ModelSpec, header: HeaderLength, body: impl Into<Bytes>) -> &'static str {
    verdict(parse(&body.into(), header, model))
}

/// The verdict on an input sent as binary data.
fn sent(datatype: Datatype, shape: &str, data: &[u8]) -> &'static str {
    let (body, header) = binary(datatype, shape, data);
    cut(&simple(datatype), header, body)
}

#[test]
fn b35_and_b36_the_datatype_is_the_models_and_has_a_json_form() {
    let fp32 = simple(Datatype::Fp32);
    for datatype in [r#""fp32""#, r#""FP33""#, r#""INT32""#, r#""""#, "32", "null"] {
        let input = format!(r#"{{"name":"x","datatype":{datatype},"shape":[1,1],"data":[1]}}"#);
        let text = format!(r#"{{"inputs":[{input}]}}"#);
        assert_eq!(verdict(parsed(&fp32, text)), "bad_datatype", "B35 {datatype}");
    }
    let missing = r#"{"inputs":[{"name":"x","shape":[1,1],"data":[1]}]}"#;
    assert_eq!(verdict(parsed(&fp32, missing)), "bad_datatype", "B35 missing");
    for datatype in [Datatype::Fp16, Datatype::Bf16] {
        assert_eq!(json(datatype, "[1,1]", "[1]"), "unsupported", "B36");
    }
}

#[test]
fn b37_to_b41_the_shape_is_the_models_and_can_be_counted() {
    let fixed = model(
        vec![tensor("x", Datatype::Fp32, &[-1, 3])],
        vec![tensor("y", Datatype::Fp32, &[-1, 3])],
    );
    for (case, shape, data) in [
        ("B37 empty", "[]", "[1]"),
        ("B37 rank", "[3]", "[1,2,3]"),
        ("B37 rank", "[1,1,3]", "[1,2,3]"),
        ("B37 fixed dimension", "[1,2]", "[1,2]"),
        ("B37 no array", "3", "[1,2,3]"),
        ("B38", "[1,-1]", "[1,2,3]"),
        ("B38", "[1,3.0]", "[1,2,3]"),
        ("B38", "[1,1.5]", "[1,2,3]"),
        ("B38", r#"[1,"2"]"#, "[1,2,3]"),
        ("B38", "[1,true]", "[1,2,3]"),
        ("B38", "[1,null]", "[1,2,3]"),
        ("B38", "[1,9223372036854775808]", "[1,2,3]"),
        ("B38 many dimensions", &format!("[{}]", ["1"; 33].join(",")), "[1]"),
        ("B39", "[4294967296,4294967296,2]", "[1,2,3]"),
        ("B41 the model forbids", "[1,0]", "[]"),
        ("B41 no rows", "[0,3]", "[]"),
    ] {
        let found = verdict(parsed(&fixed, request(Datatype::Fp32, shape, data)));
        assert_eq!(found, "bad_shape", "{case} {shape}");
    }
    let missing = r#"{"inputs":[{"name":"x","datatype":"FP32","data":[1]}]}"#;
    assert_eq!(verdict(parsed(&fixed, missing)), "bad_shape", "B37 missing");
    assert_eq!(json(Datatype::Fp32, "[1,1000000000]", "[1,2,3]"), "bad_data", "B40");
    assert_eq!(json(Datatype::Fp32, "[1,0]", "[]"), "ok", "B41 the model allows");
    assert_eq!(sent(Datatype::Fp64, "[4611686018427387904,1]", b""), "bad_shape", "B39 bytes");
}

#[test]
fn b42_rows_agree_and_are_no_more_than_the_model_takes() {
    let int8 = |name| tensor(name, Datatype::Int8, &[-1, 1]);
    let two = model(vec![int8("a"), int8("b")], vec![int8("y")]);
    let rows = |a: usize, b: usize| {
        let one = |name, rows| {
            let data = vec!["1"; rows].join(",");
            format!(r#"{{"name":"{name}","datatype":"INT8","shape":[{rows},1],"data":[{data}]}}"#)
        };
        parsed(&two, format!(r#"{{"inputs":[{},{}]}}"#, one("a", a), one("b", b)))
    };
    assert_eq!(rows(4, 4).unwrap().rows, 4);
    assert_eq!(verdict(rows(5, 5)), "batch_too_large");
    assert_eq!(verdict(rows(2, 3)), "bad_shape");
    let single = ModelSpec { max_batch: None, ..simple(Datatype::Int8) };
    let request = parsed(&single, request(Datatype::Int8, "[9,1]", "[1,2,3,4,5,6,7,8,9]")).unwrap();
    assert_eq!(request.rows, 1);
}

#[test]
fn b43_to_b45_data_matches_datatype_and_shape() {
    for (case, datatype, shape, data) in [
        ("B43 too few", Datatype::Fp32, "[1,3]", "[1,2]"),
        ("B43 too many", Datatype::Fp32, "[1,3]", "[1,2,3,4]"),
        ("B43 the protocol's example", Datatype::Bool, "[1,3]", "[true]"),
        ("B43 no array", Datatype::Fp32, "[1,2]", "1"),
        ("B44 ragged", Datatype::Fp32, "[2,2]", "[[1,2],[3]]"),
        ("B44 a row too many", Datatype::Fp32, "[2,2]", "[[1,2],[3,4],[5,6]]"),
        ("B44 deeper, one too few", Datatype::Fp32, "[2,2]", "[[[1],[2]],[[3],[]]]"),
        ("B45", Datatype::Fp32, "[1,1]", r#"["1"]"#),
        ("B45", Datatype::Fp32, "[1,1]", "[null]"),
        ("B45", Datatype::Fp64, "[1,1]", "[false]"),
        ("B45", Datatype::Int32, "[1,1]", "[1.5]"),
        ("B45", Datatype::Int32, "[1,1]", "[1e2]"),
        ("B45", Datatype::Int32, "[1,1]", "[1.0]"),
        ("B45", Datatype::Uint8, "[1,1]", "[256]"),
        ("B45", Datatype::Uint8, "[1,1]", "[-1]"),
        ("B45", Datatype::Int8, "[1,1]", "[128]"),
        ("B45", Datatype::Int64, "[1,1]", "[true]"),
        ("B45", Datatype::Bool, "[1,1]", "[1]"),
        ("B45", Datatype::Bytes, "[1,1]", "[1]"),
        ("B47", Datatype::Uint64, "[1,1]", "[18446744073709551616]"),
        ("B47", Datatype::Fp32, "[1,1]", "[1e39]"),
        ("nothing", Datatype::Fp32, "[1,1]", "null"),
    ] {
        assert_eq!(json(datatype, shape, data), "bad_data", "{case} {datatype} {data}");
    }
}

#[test]
fn b46_and_b47_numbers_are_exact() {
    let bytes = |datatype, data: &str| {
        let request = parsed(&simple(datatype), request(datatype, "[1,1]", data)).unwrap();
        request.inputs[0].data.to_vec()
    };
    assert_eq!(
        bytes(Datatype::Int64, "[9007199254740993]"),
        9_007_199_254_740_993i64.to_le_bytes()
    );
    assert_eq!(bytes(Datatype::Int64, "[-9223372036854775808]"), i64::MIN.to_le_bytes());
    assert_eq!(bytes(Datatype::Uint64, "[18446744073709551615]"), u64::MAX.to_le_bytes());
    assert_eq!(bytes(Datatype::Fp32, "[-0.0]"), (-0.0f32).to_le_bytes());
    assert_eq!(bytes(Datatype::Fp32, "[1e-45]"), f32::from_bits(1).to_le_bytes());
    assert_eq!(bytes(Datatype::Fp64, "[5e-324]"), f64::from_bits(1).to_le_bytes());
    assert_eq!(bytes(Datatype::Fp32, "[3]"), 3f32.to_le_bytes());
}

#[test]
fn b48_binary_elements_may_have_any_bytes_and_long_ones_are_refused_in_json() {
    let hostile = [&4u32.to_le_bytes()[..], b"\xff\0\xfe\n"].concat();
    assert_eq!(sent(Datatype::Bytes, "[1,1]", &hostile), "ok");
    let long = [&(1u32 << 20).to_le_bytes()[..], &vec![0; 1 << 20]].concat();
    assert_eq!(sent(Datatype::Bytes, "[1,1]", &long), "ok");
    let text = request(Datatype::Bytes, "[1,1]", &format!(r#"["{}"]"#, "a".repeat((16 << 20) + 1)));
    let found = parse(&text.into(), HeaderLength::Absent, &simple(Datatype::Bytes));
    assert_eq!(verdict(found), "bad_data");
}

#[test]
fn b49_and_b50_the_json_ends_where_the_header_says() {
    let (body, header) = binary(Datatype::Uint8, "[1,2]", b"\x01\x02");
    let model = simple(Datatype::Uint8);
    let HeaderLength::Json(length) = header else { panic!("{header:?}") };
    assert_eq!(cut(&model, header, body.clone()), "ok");
    assert_eq!(cut(&model, HeaderLength::Absent, body.slice(..length)), "bad_binary", "B49");
    assert_eq!(cut(&model, HeaderLength::Json(body.len() + 1), body.clone()), "bad_header", "B50");
    assert_eq!(cut(&model, HeaderLength::Json(length - 1), body.clone()), "bad_json", "B50");
    assert_eq!(cut(&model, HeaderLength::Json(length + 1), body), "bad_json", "B50");
}

#[test]
fn b51_a_raw_body_is_the_one_input_of_a_model_that_has_one() {
    let one = simple(Datatype::Int16);
    let raw = Bytes::from_static(&[1, 0, 2, 0]);
    let request = parse(&raw, HeaderLength::Raw, &one).unwrap();
    assert_eq!((request.inputs[0].shape.as_slice(), request.rows), (&[1, 2][..], 1));
    assert_eq!(request.inputs[0].data.as_ptr(), raw.as_ptr());
    assert!(request.outputs[0].binary);
    assert_eq!(cut(&one, HeaderLength::Raw, vec![1, 0, 2]), "bad_binary");

    let text = model(vec![tensor("x", Datatype::Bytes, &[-1, 1])], vec![]);
    let request = parse(&raw, HeaderLength::Raw, &text).unwrap();
    assert_eq!(request.inputs[0].data.as_ref(), [4, 0, 0, 0, 1, 0, 2, 0]);

    let input = |name| tensor(name, Datatype::Int16, &[-1, 1]);
    let two = model(vec![input("a"), input("b")], vec![]);
    assert_eq!(cut(&two, HeaderLength::Raw, vec![1, 0]), "bad_inputs");
}

#[test]
fn b52_to_b54_binary_sizes_add_up() {
    let of = |fields: &str, shape: &str, tail: &[u8]| {
        let json = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"UINT16","shape":{shape},{fields}}}]}}"#
        );
        let header = HeaderLength::Json(json.len());
        cut(&simple(Datatype::Uint16), header, [json.as_bytes(), tail].concat())
    };
    let size =
        |size: &str| of(&format!(r#""parameters":{{"binary_data_size":{size}}}"#), "[1,1]", b"ab");
    assert_eq!(size("2"), "ok");
    for wrong in ["-2", "2.0", r#""2""#, "true", "3", "1", "0", "18446744073709551615", "1e3"] {
        assert_eq!(size(wrong), "bad_binary", "B52 {wrong}");
    }
    let two = r#""parameters":{"binary_data_size":2}"#;
    assert_eq!(of(two, "[1,1]", b"abc"), "bad_binary", "B53 left over");
    assert_eq!(of(two, "[1,1]", b"a"), "bad_binary", "B53 short");
    assert_eq!(of(two, "[1,2]", b"ab"), "bad_binary", "B54 size is not the shape's");
    let both = format!(r#"{two},"data":[1]"#);
    assert_eq!(of(&both, "[1,1]", b"ab"), "bad_binary", "B54 data as well");
    let json = of(r#""data":[1]"#, "[1,1]", b"");
    assert_eq!(json, "ok", "JSON data with the header");
    assert_eq!(of(r#""data":[1]"#, "[1,1]", b"a"), "bad_binary", "B53 left over after JSON data");
}

#[test]
fn b55_to_b57_binary_elements_are_whole_and_valid() {
    assert_eq!(sent(Datatype::Bool, "[1,2]", &[0, 1]), "ok");
    assert_eq!(sent(Datatype::Bool, "[1,2]", &[0, 2]), "bad_binary", "B55");
    assert_eq!(sent(Datatype::Bytes, "[1,1]", b"\x05\0\0\0abcd"), "bad_binary", "B56 past the end");
    assert_eq!(
        sent(Datatype::Bytes, "[1,1]", b"\xff\xff\xff\xff"),
        "bad_binary",
        "B56 past the end"
    );
    assert_eq!(sent(Datatype::Bytes, "[1,2]", b"\0\0\0\0"), "bad_binary", "B56 count");
    assert_eq!(sent(Datatype::Bytes, "[1,1]", b"\0\0\0\0\0\0\0"), "bad_binary", "B56 rest");
    let not_finite = [f32::NAN, f32::INFINITY].map(f32::to_le_bytes).concat();
    assert_eq!(sent(Datatype::Fp32, "[1,2]", &not_finite), "ok", "B57");
}

#[test]
fn b58_tensors_may_begin_at_any_offset() {
    for padding in 0..8 {
        let json = format!(
            r#"{{{}"inputs":[{{"name":"x","datatype":"FP64","shape":[1,1],"parameters":{{"binary_data_size":8}}}}]}}"#,
            " ".repeat(padding)
        );
        let body = Bytes::from([json.as_bytes(), &1.5f64.to_le_bytes()].concat());
        let header = HeaderLength::Json(json.len());
        let model = simple(Datatype::Fp64);
        let request = parse(&body, header, &model).unwrap();
        assert_eq!(request.inputs[0].data.as_ref(), 1.5f64.to_le_bytes());
    }
}
