//! What a request may ask of a model beyond its outputs, and what its values may do wrong.

use batchfleet_broker::{ClassCount, Datatype, Failure};
use batchfleet_worker::WorkerError;

use crate::{
    fleet::{Fleet, queue, repository, tensor},
    models::{FLOAT, Graph, INTEGER, Type},
};

/// Y = X + X for rows of 3.
fn double() -> Vec<u8> {
    Graph::default()
        .input("X", &Type(FLOAT, &[None, Some(3)]))
        .node("Add", &["X", "X"], "Y")
        .output("Y", &Type(FLOAT, &[None, Some(3)]))
        .model()
}

const LABELLED: &str = r#"output { name: "Y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "y.txt" }
input { name: "X" data_type: TYPE_FP32 dims: [ 3 ] }"#;

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_carry_the_labels_of_their_file() {
    let files = [
        ("m/1/model.onnx", double()),
        ("m/config.pbtxt", LABELLED.as_bytes().to_vec()),
        ("m/y.txt", b"cat\ndog\r\n".to_vec()),
    ];
    let fleet = Fleet::start(&files, &[]).await;
    let caller = fleet.caller().await;
    let x = tensor("X", Datatype::Fp32, &[2, 3], floats(&[1.0, 0.5, 2.0, -1.0, 3.0, 0.25]));
    let classes = vec![ClassCount { output: "Y".to_owned(), count: 2 }];
    let reply = caller.ask_classes(&queue(), vec![x], 2, classes).await;
    let [output] = &reply.outcome.unwrap()[..] else { panic!("one output") };
    assert_eq!((output.datatype, &output.shape[..]), (Datatype::Bytes, &[2, 2][..]));
    let mut texts = Vec::new();
    for text in ["4.000000:2", "2.000000:0:cat", "6.000000:1:dog", "0.500000:2"] {
        texts.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        texts.extend(text.as_bytes());
    }
    assert_eq!(output.data, texts);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_of_labels_is_named() {
    let files = [("m/1/model.onnx", double()), ("m/config.pbtxt", LABELLED.as_bytes().to_vec())];
    let repository = repository(&files);
    let started = Fleet::try_start(repository.path(), &[]).await;
    let error = started.err().map(|error: WorkerError| error.to_string()).unwrap_or_default();
    assert!(error.contains("label_filename of output \"Y\"") && error.contains("y.txt"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_the_model_does_not_take_are_the_callers_fault() {
    let model = Graph::default()
        .input("ids", &Type(INTEGER, &[None, None]))
        .matrix("W", [2, 2], &[1.0, 2.0, 3.0, 4.0])
        .node("Gather", &["W", "ids"], "Y")
        .output("Y", &Type(FLOAT, &[None, None, Some(2)]))
        .model();
    let fleet = Fleet::start(&[("m/1/model.onnx", model)], &[]).await;
    let caller = fleet.caller().await;
    let ids = |id: i64| tensor("ids", Datatype::Int64, &[1, 1], id.to_le_bytes().to_vec());
    let error = caller.ask(&queue(), vec![ids(9)], 1).await.outcome.unwrap_err();
    let message = "input \"ids\": the model does not take these values: Gather: indices element out \
                   of data bounds, idx=9 must be within the inclusive range [-2,1]";
    assert_eq!((error.failure, error.message.as_str()), (Failure::BadInput, message));
    let row = caller.ask(&queue(), vec![ids(1)], 1).await.outcome.unwrap();
    assert_eq!(row[0].data, floats(&[3.0, 4.0]));
    fleet.stop().await;
}

/// Y = X * scale for rows of 2; the scale is [[2, 2]] unless a request gives another.
fn scaled() -> Vec<u8> {
    Graph::default()
        .input("X", &Type(FLOAT, &[None, Some(2)]))
        .input("scale", &Type(FLOAT, &[Some(1), Some(2)]))
        .matrix("scale", [1, 2], &[2.0, 2.0])
        .node("Mul", &["X", "scale"], "Y")
        .output("Y", &Type(FLOAT, &[None, Some(2)]))
        .model()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_with_a_default_may_be_given_and_is_the_callers_own() {
    let flags = ["--batch", "16", "--linger", "1"];
    let fleet = Fleet::start(&[("m/1/model.onnx", scaled())], &flags).await;
    let caller = fleet.caller().await;
    let x = || tensor("X", Datatype::Fp32, &[2, 2], floats(&[1.0, 2.0, 3.0, 4.0]));
    let scale = |value: f32| tensor("scale", Datatype::Fp32, &[1, 2], floats(&[value, value]));
    let mut asked = Vec::new();
    for value in [None, Some(5.0), None, Some(7.0), Some(5.0), Some(5.0), None, Some(7.0)] {
        let given = [x()].into_iter().chain(value.map(scale)).collect();
        asked.push((caller.submit(&queue(), given, 2).await, value.unwrap_or(2.0)));
    }
    let replies = caller.replies(asked.len()).await;
    for (id, value) in asked {
        let outputs = replies[&id].outcome.as_ref().unwrap();
        let expected = floats(&[1.0, 2.0, 3.0, 4.0].map(|x| x * value));
        assert_eq!(outputs[0].data, expected, "scale {value}");
    }
    fleet.stop().await;
}
