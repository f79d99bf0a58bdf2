//! Malformed requests, and correct requests that look malformed: JSON, ids, parameters and outputs.
//! The B numbers are the same as in `verify/conformance/bad_inputs`, which tests a running gateway.

use std::time::Duration;

use batchfleet_broker::{Datatype, Priority, TensorSpec};
use bytes::Bytes;

use crate::{
    infer::{HeaderLength, WantedOutput, parse},
    samples::{model, parsed, request, simple, tensor, verdict},
};

const INPUTS: &str = r#""inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]"#;

/// The verdict on a valid request with `fields` before its inputs.
fn with(fields: &str) -> &'static str {
    verdict(parsed(&simple(Datatype::Fp32), format!("{{{fields},{INPUTS}}}")))
}

/// The verdict on this body.
fn body(text: impl AsRef<[u8]>) -> &'static str {
    verdict(parsed(&simple(Datatype::Fp32), text))
}

#[test]
fn b23_to_b27_a_body_that_is_not_a_json_object_is_refused() {
    let good = format!("{{{INPUTS}}}");
    assert_eq!(body(format!(" \n{good}\t\r\n")), "ok");
    for (case, text) in [
        ("B23 empty", Vec::new()),
        ("B23 opened only", b"{".to_vec()),
        ("B23 cut in a string", b"{\"inputs\":[{\"na".to_vec()),
        ("B23 cut after an escape", b"{\"id\":\"\\".to_vec()),
        ("B23 trailing", format!("{good}x").into()),
        ("B23 two objects", format!("{good}{good}").into()),
        ("B24 byte order mark", format!("\u{feff}{good}").into()),
        ("B24 UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("B24 invalid UTF-8", [b"{\"a\":\"\xff\",", &good.as_bytes()[1..]].concat()),
        ("B24 overlong", [b"{\"a\":\"\xc0\xaf\",", &good.as_bytes()[1..]].concat()),
        ("B24 lone surrogate", format!(r#"{{"a":"\ud800",{INPUTS}}}"#).into()),
        (
            "B25 in an unknown field",
            format!(r#"{{"a":{}{},{INPUTS}}}"#, "[".repeat(129), "]".repeat(129)).into(),
        ),
        ("B25 open arrays", "[".repeat(100_000).into()),
        ("B25 in data", request(Datatype::Fp32, "[1,1]", &"[".repeat(100_000)).into()),
    ] {
        assert_eq!(body(text), "bad_json", "{case}");
    }
    for value in [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "-1e400",
        "01",
        "+1",
        "0x1",
        ".5",
        "1.",
        "1 /* one */",
        "1,",
        "'1'",
        "True",
        "\"a\nb\"",
        "1 2",
    ] {
        let text = request(Datatype::Fp32, "[1,1]", &format!("[{value}]"));
        assert_eq!(body(text), "bad_json", "B26 {value:?}");
    }
    for root in ["[]", "[{}]", "\"text\"", "1", "null", "true"] {
        assert_eq!(body(root), "bad_request", "B27 {root}");
    }
}

#[test]
fn b28_repeated_keys_are_refused_and_b29_unknown_ones_ignored() {
    for text in [
        format!(r#"{{"id":"a","id":"a",{INPUTS}}}"#),
        format!("{{{INPUTS},{INPUTS}}}"),
        format!(r#"{{"parameters":{{"a":1,"a":1}},{INPUTS}}}"#),
        format!(r#"{{"unknown":{{"deep":[{{"a":1,"\u0061":1}}]}},{INPUTS}}}"#),
        r#"{"inputs":[{"name":"x","name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}"#.into(),
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1],"data":[1]}]}"#.into(),
    ] {
        assert_eq!(body(&text), "bad_json", "B28 {text}");
    }
    assert_eq!(with(r#""model_name":"sample","more":[{"a":{"a":null}},-1.5e3,"x",true]"#), "ok");
    let input = r#"{"name":"x","datatype":"FP32","more":{"name":1},"shape":[1,1],"data":[1]}"#;
    assert_eq!(
        body(format!(r#"{{"inputs":[{input}],"outputs":[{{"name":"y","more":0}}]}}"#)),
        "ok"
    );
}

#[test]
fn b30_an_id_is_a_short_string_and_b31_is_kept_unchanged() {
    assert_eq!(with(&format!(r#""id":"{}""#, "i".repeat(255))), "ok");
    for id in [&format!(r#""{}""#, "i".repeat(256)), "7", "[]", "true", "{}"] {
        assert_eq!(with(&format!(r#""id":{id}"#)), "bad_id", "B30");
    }
    let hostile = "\0\n\"</script>\u{1b}[31m";
    let text = format!(r#"{{"id":{},{INPUTS}}}"#, serde_json::to_string(hostile).unwrap());
    assert_eq!(parsed(&simple(Datatype::Fp32), text).unwrap().id.as_deref(), Some(hostile));
    assert_eq!(with(r#""id":null"#), "ok");
}

#[test]
fn b33_and_b34_every_input_of_the_model_is_given_once() {
    let one =
        |name: &str| format!(r#"{{"name":{name},"datatype":"FP32","shape":[1,1],"data":[1]}}"#);
    let (x, z) = (one(r#""x""#), one(r#""z""#));
    for (case, inputs) in [
        ("B33 null", "null"),
        ("B33 none", "[]"),
        ("B33 object", "{}"),
        ("B33 not objects", "[1]"),
        ("B33 too many", &format!("[{}]", [&*x; 65].join(","))),
        ("B34 unknown", &format!("[{z}]")),
        ("B34 twice", &format!("[{x},{x}]")),
        ("B34 NUL", &format!("[{}]", one(r#""x\u0000""#))),
        ("B34 no name", r#"[{"datatype":"FP32","shape":[1,1],"data":[1]}]"#),
        ("B34 name is no string", &format!("[{}]", one("1"))),
    ] {
        assert_eq!(body(format!(r#"{{"inputs":{inputs}}}"#)), "bad_inputs", "{case}");
    }
    assert_eq!(body("{}"), "bad_inputs", "B33 missing");

    let fp32 = |name| tensor(name, Datatype::Fp32, &[-1, -1]);
    let two = model(vec![fp32("x"), fp32("z")], vec![fp32("y")]);
    let of = |inputs: &str| parsed(&two, format!(r#"{{"inputs":[{inputs}]}}"#));
    assert_eq!(verdict(of(&x)), "bad_inputs", "B34 missing");
    assert_eq!(verdict(of(&format!("{x},{x}"))), "bad_inputs", "B34 twice");
    let names: Vec<_> = of(&format!("{z},{x}")).unwrap().inputs;
    assert_eq!(names.iter().map(|input| &*input.name).collect::<Vec<_>>(), ["x", "z"]);
}

#[test]
fn b59_outputs_are_the_models_each_once_and_all_if_none_are_named() {
    for (case, outputs, expected) in [
        ("unknown", r#"[{"name":"z"}]"#, "bad_outputs"),
        ("twice", r#"[{"name":"y"},{"name":"y"}]"#, "bad_outputs"),
        ("not an array", r#"{"name":"y"}"#, "bad_outputs"),
        ("not objects", r#"["y"]"#, "bad_outputs"),
        ("no name", "[{}]", "bad_outputs"),
        (
            "a million",
            &format!("[{}]", vec![r#"{"name":"y"}"#; 1_000_000].join(",")),
            "bad_outputs",
        ),
        (
            "binary_data is no boolean",
            r#"[{"name":"y","parameters":{"binary_data":1}}]"#,
            "bad_parameter",
        ),
        ("classes", r#"[{"name":"y","parameters":{"classification":3}}]"#, "ok"),
        ("no classes", r#"[{"name":"y","parameters":{"classification":0}}]"#, "ok"),
        (
            "classes are no number",
            r#"[{"name":"y","parameters":{"classification":true}}]"#,
            "bad_parameter",
        ),
        (
            "negative classes",
            r#"[{"name":"y","parameters":{"classification":-1}}]"#,
            "bad_parameter",
        ),
        ("none", "[]", "ok"),
        ("null", "null", "ok"),
        ("one", r#"[{"name":"y","parameters":{"binary_data":true,"mine":"x"}}]"#, "ok"),
    ] {
        assert_eq!(with(&format!(r#""outputs":{outputs}"#)), expected, "{case}");
    }
}

#[test]
fn an_outputs_own_form_overrides_the_requests() {
    let fp32 = |name| tensor(name, Datatype::Fp32, &[-1, -1]);
    let model = model(vec![fp32("x")], vec![fp32("y"), fp32("z")]);
    let wanted = |fields: &str| {
        let request = parsed(&model, format!("{{{fields}{INPUTS}}}")).unwrap();
        request
            .outputs
            .into_iter()
            .map(|WantedOutput { name, binary, .. }| (name, binary))
            .collect()
    };
    let expect = |fields: &str, expected: &[(&str, bool)]| {
        let found: Vec<(String, bool)> = wanted(fields);
        let found: Vec<_> = found.iter().map(|(name, binary)| (name.as_str(), *binary)).collect();
        assert_eq!(found, expected, "{fields}");
    };
    let all_binary = r#""parameters":{"binary_data_output":true},"#;
    expect("", &[("y", false), ("z", false)]);
    expect(all_binary, &[("y", true), ("z", true)]);
    let own = r#""outputs":[{"name":"z","parameters":{"binary_data":false}},{"name":"y"}],"#;
    expect(&format!("{own}{all_binary}"), &[("y", true), ("z", false)]);
    expect(r#""outputs":[{"name":"z"}],"#, &[("z", false)]);
}

#[test]
fn half_precision_outputs_are_refused_as_json_before_the_model_runs() {
    let fp16 = tensor("y", Datatype::Fp16, &[-1]);
    let model = model(vec![tensor("x", Datatype::Fp32, &[-1, -1])], vec![fp16]);
    assert_eq!(verdict(parsed(&model, format!("{{{INPUTS}}}"))), "unsupported");
    let binary = r#""outputs":[{"name":"y","parameters":{"binary_data":true}}]"#;
    assert_eq!(verdict(parsed(&model, format!("{{{binary},{INPUTS}}}"))), "ok");
}

#[test]
fn classes_are_of_numbers_and_written_as_text() {
    let output = |name: &str, datatype| tensor(name, datatype, &[-1, -1]);
    let turned = TensorSpec { row_axis: Some(1), ..output("turned", Datatype::Fp32) };
    let single = TensorSpec { row_axis: None, ..output("single", Datatype::Fp32) };
    let (half, words) = (output("half", Datatype::Fp16), output("words", Datatype::Bytes));
    let outputs = vec![half, output("flags", Datatype::Bool), words, turned, single];
    let model = model(vec![output("x", Datatype::Fp32)], outputs);
    let of = |name: &str, count: u64| {
        let asked = format!(r#"[{{"name":"{name}","parameters":{{"classification":{count}}}}}]"#);
        parsed(&model, format!(r#"{{"outputs":{asked},{INPUTS}}}"#))
    };
    for (name, expected) in [
        ("half", "ok"),
        ("flags", "bad_outputs"),
        ("words", "bad_outputs"),
        ("turned", "unsupported"),
        ("single", "ok"),
    ] {
        assert_eq!(verdict(of(name, 2)), expected, "{name}");
    }
    assert_eq!(of("half", 2).unwrap().outputs[0].classes, 2);
    assert_eq!(of("half", u64::MAX).unwrap().outputs[0].classes, u32::MAX);
    assert_eq!(verdict(of("half", 0)), "unsupported", "FP16 itself has no form in JSON");
}

#[test]
fn optional_inputs_may_be_left_out_and_keep_their_order() {
    let fp32 = |name| tensor(name, Datatype::Fp32, &[-1, -1]);
    let optional = |name| TensorSpec { optional: true, ..fp32(name) };
    let model = model(vec![optional("a"), fp32("x"), optional("z")], vec![fp32("y")]);
    let of = |names: &[&str]| {
        let one =
            |name| format!(r#"{{"name":"{name}","datatype":"FP32","shape":[1,1],"data":[1]}}"#);
        let inputs: Vec<_> = names.iter().map(one).collect();
        parsed(&model, format!(r#"{{"inputs":[{}]}}"#, inputs.join(",")))
    };
    for (names, ordered) in [
        (&["x"][..], &["x"][..]),
        (&["z", "x"], &["x", "z"]),
        (&["x", "a"], &["a", "x"]),
        (&["z", "a", "x"], &["a", "x", "z"]),
    ] {
        let request = of(names).unwrap();
        assert_eq!(request.inputs.iter().map(|input| &*input.name).collect::<Vec<_>>(), ordered);
    }
    let missing = of(&["a", "z"]).unwrap_err();
    assert_eq!(missing.message, r#"input "x" is missing"#);
    assert_eq!(verdict(of(&["x", "a", "a"])), "bad_inputs");
    let raw = parse(&Bytes::from_static(&[0, 0, 128, 63]), HeaderLength::Raw, &model).unwrap();
    assert_eq!(raw.inputs[0].name, "x");
}

#[test]
fn b61_parameters_are_scalars_in_range() {
    let many: Vec<_> = (0..10_000).map(|at| format!(r#""k{at}":1"#)).collect();
    for (parameters, expected) in [
        ("[]", "bad_parameter"),
        (r#"{"a":[1]}"#, "bad_parameter"),
        (r#"{"a":{}}"#, "bad_parameter"),
        (r#"{"a":null}"#, "bad_parameter"),
        (&format!("{{{}}}", many.join(",")), "bad_parameter"),
        (r#"{"timeout":-1}"#, "bad_parameter"),
        (r#"{"timeout":1e18}"#, "bad_parameter"),
        (r#"{"timeout":1.5}"#, "bad_parameter"),
        (r#"{"timeout":"5"}"#, "bad_parameter"),
        (r#"{"timeout":18446744073709551616}"#, "bad_parameter"),
        (r#"{"priority":-1}"#, "bad_parameter"),
        (r#"{"priority":"high"}"#, "bad_parameter"),
        (r#"{"binary_data_output":1}"#, "bad_parameter"),
        (r#"{"sequence_start":1}"#, "bad_parameter"),
        (r#"{"triton_enable_empty_final_response":true}"#, "bad_parameter"),
        (r#"{"sequence_id":5}"#, "unsupported"),
        (r#"{"sequence_id":"five"}"#, "unsupported"),
        (r#"{"sequence_start":true}"#, "unsupported"),
        (r#"{"sequence_id":0,"sequence_start":false,"sequence_end":false}"#, "ok"),
        (r#"{"sequence_id":""}"#, "ok"),
        (r#"{"mine":"text","also":1.5e3,"and":true}"#, "ok"),
        ("{}", "ok"),
        ("null", "ok"),
    ] {
        let shown = &parameters[..parameters.len().min(60)];
        assert_eq!(with(&format!(r#""parameters":{parameters}"#)), expected, "{shown}");
    }
}

#[test]
fn timeout_is_read_as_microseconds_and_priority_as_a_class() {
    let read = |parameters: &str| {
        let text = format!(r#"{{"parameters":{parameters},{INPUTS}}}"#);
        let request = parsed(&simple(Datatype::Fp32), text).unwrap();
        (request.timeout, request.priority)
    };
    let limit = Duration::from_micros(2_500_001);
    let wanted = (Some(limit), Priority::Critical);
    assert_eq!(read(r#"{"timeout":2500001,"priority":1}"#), wanted);
    assert_eq!(read(r#"{"timeout":0}"#), (None, Priority::Default));
    for (level, class) in [
        (0, Priority::Default),
        (2, Priority::Default),
        (3, Priority::Sheddable),
        (u64::MAX, Priority::Sheddable),
    ] {
        assert_eq!(read(&format!(r#"{{"priority":{level}}}"#)), (None, class), "{level}");
    }
}

#[test]
fn b62_data_outside_the_body_is_unsupported() {
    for name in
        ["shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "file", "url"]
    {
        let parameter = format!(r#""parameters":{{"{name}":"a"}}"#);
        assert_eq!(with(&parameter), "unsupported", "request {name}");
        let input = format!(r#"{{"name":"x","datatype":"FP32","shape":[1,1],{parameter}}}"#);
        assert_eq!(body(format!(r#"{{"inputs":[{input}]}}"#)), "unsupported", "input {name}");
        let output = format!(r#""outputs":[{{"name":"y",{parameter}}}]"#);
        assert_eq!(with(&output), "unsupported", "output {name}");
    }
}
