//! What a worker does with the files of a repository.

use std::fs;

use batchfleet_broker::{Broker, Datatype, QueueName, Tensor, UnavailableModel};

use crate::{
    fleet::{Fleet, repository, tensor},
    models::{Graph, Type},
};

const FLOAT: u64 = 1;

/// The model of [`files`].
const MODEL: &str = "m/1/model.onnx";

/// Y = X · W + C for rows of 2, with W and C in two files.
fn model() -> Vec<u8> {
    let rows = Type(FLOAT, &[None, Some(2)]);
    Graph::default()
        .input("X", &rows)
        .matrix_in("weights.bin", "W", [2, 2])
        .constant_in("more/c.bin", "C", [1, 2])
        .node("MatMul", &["X", "W"], "P")
        .node("Add", &["P", "C"], "Y")
        .output("Y", &rows)
        .model()
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn files() -> [(&'static str, Vec<u8>); 3] {
    [
        (MODEL, model()),
        ("m/1/weights.bin", bytes(&[1.0, 2.0, 3.0, 4.0])),
        ("m/1/more/c.bin", bytes(&[100.0, 200.0])),
    ]
}

fn row(name: &str, numbers: [f32; 2]) -> Tensor {
    tensor(name, Datatype::Fp32, &[1, 2], bytes(&numbers))
}

/// Asks the worker for X = [1, 1], and compares the answer.
async fn answers(fleet: &Fleet, expected: [f32; 2]) {
    let caller = fleet.caller().await;
    let reply = caller.ask(&QueueName::new("m", 1), vec![row("X", [1.0, 1.0])], 1).await;
    assert_eq!(reply.outcome, Ok(vec![row("Y", expected)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_overwritten_or_cut_short_change_no_answer() {
    let root = repository(&files());
    let fleet = Fleet::try_start(root.path(), &[]).await.unwrap();
    answers(&fleet, [104.0, 206.0]).await;
    for name in ["m/1/weights.bin", "m/1/more/c.bin", MODEL] {
        let file = fs::OpenOptions::new().write(true).open(root.path().join(name)).unwrap();
        fs::write(root.path().join(name), bytes(&[9.0; 4])).unwrap();
        answers(&fleet, [104.0, 206.0]).await;
        file.set_len(0).unwrap();
        answers(&fleet, [104.0, 206.0]).await;
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_served_only_with_the_digest_of_all_its_files() {
    let root = repository(&files());
    let found = batchfleet_worker::digests(root.path()).unwrap().remove(0);
    let pinned = format!("{}@{}", found.queue, found.digest.unwrap());
    let fleet = Fleet::try_start(root.path(), &["--model", &pinned]).await.unwrap();
    answers(&fleet, [104.0, 206.0]).await;
    fleet.stop().await;
    for (name, content) in files() {
        let path = root.path().join(name);
        fs::write(&path, [&content[1..], &content[..1]].concat()).unwrap();
        let Err(error) = Fleet::try_start(root.path(), &["--model", &pinned]).await else {
            panic!("it serves other files: {name}")
        };
        assert!(error.is_settings(), "{error}");
        fs::write(&path, content).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_served_is_announced_beside_the_others() {
    let broken = [
        ("empty/1/model.onnx", Vec::new()),
        ("config/config.pbtxt", b"max_batch_size 1".to_vec()),
        ("config/1/model.onnx", model()),
        ("cut/1/model.onnx", model()),
        ("cut/1/weights.bin", bytes(&[1.0])),
        ("cut/1/more/c.bin", bytes(&[1.0, 1.0])),
    ];
    let root = repository(&[&files()[..], &broken].concat());
    let fleet = Fleet::try_start(root.path(), &[]).await.unwrap();
    answers(&fleet, [104.0, 206.0]).await;
    let workers = fleet.broker.observer().await.unwrap().fleet().await.unwrap().workers;
    assert_eq!(workers.len(), 1);
    let unavailable = &workers[0].announcement.unavailable;
    let named: Vec<_> =
        unavailable.iter().map(|model| (model.model.as_str(), model.version)).collect();
    assert_eq!(named, [("config", None), ("cut", Some(1)), ("empty", Some(1))]);
    for (UnavailableModel { reason, .. }, expected) in
        unavailable.iter().zip(["line 1", "weights.bin has 4 bytes", "is empty"])
    {
        assert!(reason.contains(expected), "{reason}");
    }
    fleet.stop().await;
    for flags in [&["--exit-on-error"][..], &["--model", "m,cut"]] {
        assert!(Fleet::try_start(root.path(), flags).await.is_err(), "{flags:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_can_serve_no_model_ends_with_every_reason() {
    let root = repository(&[("a/1/model.onnx", ""), ("b/1/model.onnx", "no model")]);
    let Err(error) = Fleet::try_start(root.path(), &[]).await else { panic!("it serves") };
    let error = error.to_string();
    assert!(error.starts_with("no model can be served: model a:1: "), "{error}");
    assert!(error.contains("is empty; model b:1: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_its_checksum_is_not_served() {
    let config = |sum: &str| {
        format!(
            "model_repository_agents {{ agents [ {{ name: \"checksum\" parameters {{ key: \
             \"MD5:1/more/c.bin\" value: \"{sum}\" }} }} ] }}"
        )
    };
    // The MD5 sum of the little-endian floats 100 and 200.
    let right = "9ef09e41c8744ddda26838031aaa7aba";
    for (sum, serves) in [(right, true), ("d726e132f91f16ebee703d96f6f73cb1", false)] {
        let root = repository(&[&files()[..], &[("m/config.pbtxt", config(sum).into())]].concat());
        match Fleet::try_start(root.path(), &[]).await {
            Ok(fleet) => {
                assert!(serves, "{sum}");
                answers(&fleet, [104.0, 206.0]).await;
                fleet.stop().await;
            }
            Err(error) => {
                let expected = format!("1/more/c.bin has the MD5 sum {right}, but its checksum");
                assert!(!serves && error.to_string().contains(&expected), "{error}");
            }
        }
    }
}
