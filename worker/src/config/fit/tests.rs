use batchfleet_broker::Datatype::{self, Bytes, Fp32, Int64};

use super::*;

fn tensor(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec::new(name, datatype, shape)
}

/// Fits a config to a model with input X of any image size and output Y of 10 numbers per row.
fn fit(text: &str) -> Result<Fitted, String> {
    let inputs = vec![tensor("X", Fp32, &[-1, 3, -1, -1])];
    fit_to(text, inputs, vec![tensor("Y", Fp32, &[-1, 10])])
}

fn fit_to(text: &str, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> Result<Fitted, String> {
    let output = |spec: TensorSpec| ModelOutput { name: spec.name.clone(), spec: Ok(spec) };
    ModelConfig::parse(text).unwrap().fit(inputs, outputs.into_iter().map(output).collect())
}

fn x(dims: &str) -> String {
    format!("input {{ name: \"X\" data_type: TYPE_FP32 dims: {dims} }}")
}

#[test]
fn dims_narrow_the_model() {
    for (rows, dims, expected) in [
        ("max_batch_size: 8", "[ 3, 32, 32 ]", [-1, 3, 32, 32]),
        ("max_batch_size: 8", "[ 3, -1, 64 ]", [-1, 3, -1, 64]),
        ("max_batch_size: 0", "[ 2, 3, 32, 32 ]", [2, 3, 32, 32]),
        ("max_batch_size: 0", "[ -1, 3, 32, 32 ]", [-1, 3, 32, 32]),
        ("", "[ 3, 32, 32 ]", [-1, 3, 32, 32]),
        ("", "[ 4, 3, 32, 32 ]", [4, 3, 32, 32]),
    ] {
        let fitted = fit(&format!("{rows} {}", x(dims))).unwrap();
        assert_eq!(fitted.inputs[0].shape, expected, "{rows} {dims}");
        assert_eq!(fitted.outputs[0].shape, [-1, 10]);
    }
    assert_eq!(fit("").unwrap().inputs[0].shape, [-1, 3, -1, -1]);
}

#[test]
fn contradictions_name_both_sides() {
    let y = |dims: &str| format!("output {{ name: \"Y\" data_type: TYPE_FP32 dims: {dims} }}");
    for (text, expected) in [
        (
            x("[ 4, 32, 32 ]"),
            "input \"X\" has dims [4, 32, 32] in config.pbtxt, with the batch dimension \
             [-1, 4, 32, 32], but [-1, 3, -1, -1] in the model",
        ),
        (x("[ -1, 32, 32 ]"), "input \"X\" has dims [-1, 32, 32] in config.pbtxt"),
        (x("[ 32, 32 ]"), "input \"X\" has dims [32, 32] in config.pbtxt"),
        (
            x("[ -1, 3, -1, -1 ]"),
            "input \"X\" has dims [-1, 3, -1, -1] in config.pbtxt, with the batch dimension \
             [-1, -1, 3, -1, -1], but [-1, 3, -1, -1] in the model; dims leave out the batch \
             dimension if max_batch_size is greater than 0",
        ),
        (y("[ 11 ]"), "output \"Y\" has dims [11] in config.pbtxt"),
        (
            y("[ 2, 5 ]"),
            "output \"Y\" has dims [2, 5] in config.pbtxt, with the batch dimension [-1, 2, 5], but \
             [-1, 10] in the model; reshape { shape: [10] } gives the dimensions in the model",
        ),
        (
            "input { name: \"Z\" data_type: TYPE_FP32 dims: 3 }".to_owned(),
            "config.pbtxt names input \"Z\", but the model has X",
        ),
        (
            "output { name: \"Z\" data_type: TYPE_FP32 dims: 3 }".to_owned(),
            "config.pbtxt names output \"Z\", but the model has Y",
        ),
        (
            "input { name: \"X\" data_type: TYPE_INT64 dims: [ 3, 8, 8 ] }".to_owned(),
            "input \"X\" is INT64 in config.pbtxt, but FP32 in the model",
        ),
        (
            "input { name: \"X\" data_type: TYPE_FP32 dims: [ 3, 8, 8 ] optional: true }"
                .to_owned(),
            "input \"X\" is optional in config.pbtxt, but the model needs it",
        ),
        (
            "parameters { key: \"batch_axis:Z\" value { string_value: \"1\" } }".to_owned(),
            "config.pbtxt names in a parameter batch_axis the tensor \"Z\", but the model has X, Y",
        ),
        (
            "parameters { key: \"batch_axis:Y\" value { string_value: \"2\" } }".to_owned(),
            "the parameter batch_axis of output \"Y\" is 2, but its shape in the model is [-1, 10], \
             with dimensions 0 to 1",
        ),
    ] {
        let error = fit(&format!("max_batch_size: 8 {text}")).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n{error}");
    }
}

#[test]
fn an_output_may_be_more_open_in_the_config_than_in_the_model() {
    let text = "max_batch_size: 8 output { name: \"Y\" data_type: TYPE_FP32 dims: -1 }";
    assert_eq!(fit(text).unwrap().outputs[0].shape, [-1, 10]);
}

#[test]
fn what_the_config_leaves_out_is_taken_from_the_model() {
    let text = "input { name: \"X\" } output { name: \"Y\" data_type: TYPE_FP32 }";
    for rows in ["", "max_batch_size: 8", "max_batch_size: 0"] {
        let fitted = fit(&format!("{rows} {text}")).unwrap();
        assert_eq!(fitted.inputs[0], tensor("X", Fp32, &[-1, 3, -1, -1]));
        assert_eq!(fitted.outputs[0], tensor("Y", Fp32, &[-1, 10]));
    }
}

#[test]
fn dims_give_the_shape_that_the_model_lacks() {
    for (rows, dims, expected) in [
        ("max_batch_size: 8", "[ 3 ]", vec![-1, 3]),
        ("max_batch_size: 0", "[ 2, 3 ]", vec![2, 3]),
        ("", "[ 3 ]", vec![3]),
        ("max_batch_size: 8", "[]", vec![]),
    ] {
        let fitted =
            fit_to(&format!("{rows} {}", x(dims)), vec![tensor("X", Fp32, &[])], Vec::new());
        assert_eq!(fitted.unwrap().inputs[0].shape, expected, "{rows} {dims}");
    }
}

#[test]
fn every_required_input_is_listed_or_none() {
    let inputs = || {
        let optional = TensorSpec { optional: true, ..tensor("K", Int64, &[-1]) };
        vec![tensor("X", Fp32, &[-1, 3]), tensor("S", Bytes, &[-1, 1]), optional]
    };
    let names = |text: &str| -> Vec<String> {
        let fitted = fit_to(text, inputs(), Vec::new()).unwrap();
        fitted.inputs.into_iter().map(|input| input.name).collect()
    };
    let s = "input { name: \"S\" data_type: TYPE_STRING dims: 1 }";
    assert_eq!(names(""), ["X", "S", "K"]);
    assert_eq!(names(&format!("{s} {}", x("3"))), ["X", "S"]);
    let k = "input { name: \"K\" data_type: TYPE_INT64 dims: [] optional: true }";
    let fitted = fit_to(&format!("{s} {} {k}", x("3")), inputs(), Vec::new()).unwrap();
    assert_eq!(fitted.inputs.iter().map(|i| i.optional).collect::<Vec<_>>(), [false, false, true]);
    let error = fit_to(&x("3"), inputs(), Vec::new()).unwrap_err();
    assert_eq!(error, "config.pbtxt lists inputs, but not input \"S\", which the model needs");
}

#[test]
fn outputs_that_are_no_tensors_are_dropped_or_the_way_out_is_named() {
    let fit = |text: &str| {
        let label = tensor("label", Int64, &[-1]);
        let outputs = vec![
            ModelOutput { name: "label".to_owned(), spec: Ok(label) },
            ModelOutput { name: "map".to_owned(), spec: Err("\"map\" is not a tensor".to_owned()) },
        ];
        ModelConfig::parse(text).unwrap().fit(vec![tensor("X", Fp32, &[-1, 3])], outputs)
    };
    let fitted = fit("output { name: \"label\" data_type: TYPE_INT64 dims: [] }").unwrap();
    assert_eq!(fitted.outputs.len(), 1);
    for text in ["", "output { name: \"map\" data_type: TYPE_FP32 dims: 1 }"] {
        let error = fit(text).unwrap_err();
        assert!(error.starts_with("\"map\" is not a tensor: "), "{error}");
        assert!(error.contains("options={'zipmap': False}"), "{error}");
    }
}

#[test]
fn a_reshape_is_compared_with_the_model_and_shown_without() {
    let text = "max_batch_size: 4 input { name: \"X\" data_type: TYPE_FP32 dims: [ 6 ] \
                reshape { shape: [ 2, 3 ] } } \
                output { name: \"Y\" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [] } }";
    let model = |x: &[i64], y: &[i64]| (vec![tensor("X", Fp32, x)], vec![tensor("Y", Fp32, y)]);
    let (inputs, outputs) = model(&[-1, 2, -1], &[-1]);
    let fitted = fit_to(text, inputs, outputs).unwrap();
    assert_eq!(
        (&fitted.inputs[0].shape[..], &fitted.outputs[0].shape[..]),
        (&[-1, 6][..], &[-1, 1][..])
    );
    assert_eq!(fitted.reshapes.inputs[0].native, [2, 3]);
    assert!(fitted.reshapes.outputs[0].rows);
    let (inputs, outputs) = model(&[-1, 3, 2], &[-1]);
    let error = fit_to(text, inputs, outputs).unwrap_err();
    assert!(error.starts_with("input \"X\" has reshape [2, 3] in config.pbtxt"), "{error}");
}

#[test]
fn a_declared_axis_counts_rows() {
    let text = "max_batch_size: 8 \
                input { name: \"X\" data_type: TYPE_FP32 dims: [ 2, 128 ] } \
                input { name: \"S\" data_type: TYPE_INT64 dims: [ 1 ] } \
                parameters { key: \"batch_axis:X\" value { string_value: \"1\" } } \
                parameters { key: \"batch_axis:S\" value { string_value: \"none\" } } \
                parameters { key: \"batch_axis:label\" value { string_value: \"0\" } }";
    let inputs = vec![tensor("X", Fp32, &[2, -1, 128]), tensor("S", Int64, &[1])];
    let fitted = fit_to(text, inputs, vec![tensor("label", Int64, &[1])]).unwrap();
    let [x, s] = &fitted.inputs[..] else { panic!("{:?}", fitted.inputs) };
    assert_eq!((&x.shape[..], x.row_axis), (&[2, -1, 128][..], Some(1)));
    assert_eq!((&s.shape[..], s.row_axis), (&[1][..], None));
    let label = &fitted.outputs[0];
    assert_eq!((&label.shape[..], label.row_axis), (&[-1][..], Some(0)));
}

#[test]
fn samples_of_a_warm_up_fit_the_inputs() {
    let sample = |name: &str, datatype: &str| {
        format!(
            "model_warmup {{ name: \"w\" inputs {{ key: \"{name}\" value {{ data_type: {datatype} \
             dims: [ 3, 8, 8 ] zero_data: true }} }} }}"
        )
    };
    assert!(fit(&sample("X", "TYPE_FP32")).is_ok());
    for (text, expected) in [
        (sample("Z", "TYPE_FP32"), "model_warmup \"w\" names input \"Z\", but the model has X"),
        (sample("X", "TYPE_FP16"), "model_warmup \"w\" has FP16 for input \"X\", which is FP32"),
    ] {
        assert_eq!(fit(&text).unwrap_err(), expected);
    }
}
