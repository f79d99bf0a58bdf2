//! Models whose requests cannot share a batch, and models that the warm-up cannot run.

use batchfleet_broker::Datatype;

use crate::{
    fleet::{Fleet, floats, queue, repository, tensor},
    models::{FLOAT, Graph, INTEGER, Type},
};

/// A model that returns the indices of all nonzero numbers. The output has one row per nonzero
/// number, although the model declares one row per row of the batch.
fn fickle() -> Vec<u8> {
    Graph::default()
        .input("X", &Type(FLOAT, &[None, Some(3)]))
        .node("NonZero", &["X"], "indices")
        .node("Transpose", &["indices"], "Y")
        .output("Y", &Type(INTEGER, &[None, Some(2)]))
        .model()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_keep_its_rows_is_served_one_request_at_a_time() {
    for config in [&b""[..], b"max_batch_size: 0"] {
        let files = [("m/1/model.onnx", fickle()), ("m/config.pbtxt", config.to_vec())];
        let fleet = Fleet::start(&files, &[]).await;
        let caller = fleet.caller().await;
        let input = floats("X", &[1, 3], &[0.0, 5.0, 0.0]);
        let outputs = caller.ask(&queue(), vec![input], 1).await.outcome.unwrap();
        assert_eq!(outputs[0].shape, [1, 2]);
        fleet.stop().await;
    }
}

/// Y = X · X': every row of Y holds the products with all rows.
fn products() -> Vec<u8> {
    Graph::default()
        .input("X", &Type(FLOAT, &[None, Some(3)]))
        .node("Transpose", &["X"], "T")
        .node("MatMul", &["X", "T"], "Y")
        .output("Y", &Type(FLOAT, &[None, None]))
        .model()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_rows_influence_each_other_batches_on_no_account() {
    let fleet = Fleet::start(&[("m/1/model.onnx", products())], &["--linger", "20ms"]).await;
    let caller = fleet.caller().await;
    for _ in 0..5 {
        caller.submit(&queue(), vec![floats("X", &[2, 3], &[1.0; 6])], 1).await;
    }
    for reply in caller.replies(5).await.into_values() {
        assert_eq!(reply.outcome, Ok(vec![floats("Y", &[2, 2], &[3.0; 4])]));
    }
    fleet.stop().await;
    let error = async |config: &str| {
        let config = config.as_bytes().to_vec();
        let files = repository(&[("m/1/model.onnx", products()), ("m/config.pbtxt", config)]);
        let Err(error) = Fleet::try_start(files.path(), &[]).await else { panic!("it serves") };
        error.to_string()
    };
    let demanded = error("max_batch_size: 8").await;
    assert!(
        demanded.contains(
            "max_batch_size 8, but the rows of a batch influence each other: output \"Y\""
        ),
        "{demanded}"
    );
    assert!(demanded.ends_with("max_batch_size: 0 serves it one request at a time"), "{demanded}");
    let unchecked =
        "max_batch_size: 8 parameters { key: \"golden_check\" value { string_value: \"off\" } }";
    assert!(error(unchecked).await.contains("shape"), "shapes are compared even so");
}

/// Y = X for batches of up to 8 rows. In larger batches every number grows with the number of rows.
fn crowded() -> Vec<u8> {
    Graph::default()
        .input("X", &Type(FLOAT, &[None, Some(3)]))
        .matrix("none", [1, 1], &[0.0])
        .matrix("one", [1, 1], &[1.0])
        .matrix("less", [1, 1], &[-24.0])
        .node("Mul", &["X", "none"], "zeros")
        .node("Add", &["zeros", "one"], "ones")
        .node("ReduceSum", &["ones"], "numbers")
        .node("Add", &["numbers", "less"], "beyond")
        .node("Relu", &["beyond"], "growth")
        .node("Add", &["X", "growth"], "Y")
        .output("Y", &Type(FLOAT, &[None, Some(3)]))
        .model()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_differs_only_in_large_batches_is_served_one_request_at_a_time() {
    for flags in [&["--linger", "20ms"][..], &["--batch", "16", "--linger", "20ms"]] {
        let fleet = Fleet::start(&[("m/1/model.onnx", crowded())], flags).await;
        let caller = fleet.caller().await;
        let mut asked = Vec::new();
        for value in 1..=20_u8 {
            let values = [f32::from(value); 3];
            let id = caller.submit(&queue(), vec![floats("X", &[1, 3], &values)], 1).await;
            asked.push((id, floats("Y", &[1, 3], &values)));
        }
        let replies = caller.replies(asked.len()).await;
        for (id, expected) in asked {
            assert_eq!(replies[&id].outcome, Ok(vec![expected]));
        }
        fleet.stop().await;
    }
    let demanding =
        [("m/1/model.onnx", crowded()), ("m/config.pbtxt", b"max_batch_size: 32".to_vec())];
    let Err(error) = Fleet::try_start(repository(&demanding).path(), &[]).await else {
        panic!("it serves")
    };
    let error = error.to_string();
    assert!(error.contains("output \"Y\" of a row differs in a batch of 16 rows"), "{error}");
    assert!(error.contains("a smaller max_batch_size"), "{error}");
}

/// Takes only the number of its elements as their shape.
fn particular() -> Vec<u8> {
    Graph::default()
        .input("X", &Type(INTEGER, &[Some(1)]))
        .matrix("W", [2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .node("Reshape", &["W", "X"], "Y")
        .output("Y", &Type(FLOAT, &[None]))
        .model()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_warmed_up_is_served_one_request_at_a_time_or_refused() {
    let files = [("m/1/model.onnx", particular())];
    let fleet = Fleet::start(&files, &[]).await;
    let caller = fleet.caller().await;
    let input = tensor("X", Datatype::Int64, &[1], 6_i64.to_le_bytes().to_vec());
    let outputs = caller.ask(&queue(), vec![input], 1).await.outcome.unwrap();
    assert_eq!(outputs[0].shape, [6]);
    fleet.stop().await;
    let files = repository(&files);
    let Err(error) = Fleet::try_start(files.path(), &["--require-warm-up"]).await else {
        panic!("it serves")
    };
    assert!(error.to_string().starts_with("model m:1 cannot be warmed up: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_warmed_up_with_the_samples_of_its_config() {
    let config = "max_batch_size: 0 model_warmup { name: \"w\" inputs { key: \"X\" value { data_type: \
                  TYPE_INT64 dims: [1] input_data_file: \"six\" } } }";
    let files = |sample: &[u8]| {
        [
            ("m/1/model.onnx", particular()),
            ("m/config.pbtxt", config.as_bytes().to_vec()),
            ("m/warmup/six", sample.to_vec()),
        ]
    };
    let fleet = Fleet::start(&files(&6_i64.to_le_bytes()), &["--require-warm-up"]).await;
    fleet.stop().await;
    let files = repository(&files(b"six"));
    let Err(error) = Fleet::try_start(files.path(), &[]).await else { panic!("it serves") };
    let error = error.to_string();
    assert!(
        error.contains("six has 3 bytes, which is not one row of the shape [1] of INT64"),
        "{error}"
    );
}
