//! Runs small models with ONNX Runtime.

use batchfleet_broker::{Datatype, Failure, Reply, Tensor};
use batchfleet_worker::{ModelLoadError, WorkerError};

use crate::{
    fleet::{Fleet, floats, queue, repository, tensor},
    models::{FLOAT, Graph, Type},
};

/// Lines of a config: memory that stays between runs, and graphs in it.
const KEPT_MEMORY: &str = "parameters { key: \"io_binding\" value { string_value: \"1\" } }\n";
const GRAPHS: &str = "optimization { cuda { graphs: true } }\n";

/// Y = X · W for rows of 3, with W = [[1, 10], [2, 20], [3, 30]].
fn matmul(rows: Option<u64>) -> Vec<u8> {
    Graph::default()
        .input("X", &Type(FLOAT, &[rows, Some(3)]))
        .matrix("W", [3, 2], &[1.0, 10.0, 2.0, 20.0, 3.0, 30.0])
        .node("MatMul", &["X", "W"], "Y")
        .output("Y", &Type(FLOAT, &[rows, Some(2)]))
        .model()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_gets_the_outputs_of_its_own_rows() {
    let fleet =
        Fleet::start(&[("m/1/model.onnx", matmul(None))], &["--batch", "16", "--linger", "1"])
            .await;
    let caller = fleet.caller().await;
    let mut asked = Vec::new();
    for n in 0_u16..300 {
        let rows = n % 4 + 1;
        let x: Vec<f32> = (0..rows * 3).map(|i| f32::from(n + i)).collect();
        let y: Vec<f32> = x
            .chunks(3)
            .map(|row| row[0] + 2.0 * row[1] + 3.0 * row[2])
            .flat_map(|sum| [sum, 10.0 * sum])
            .collect();
        let input = floats("X", &[rows.into(), 3], &x);
        let id = caller.submit(&queue(), vec![input], rows.into()).await;
        asked.push((id, floats("Y", &[rows.into(), 2], &y)));
    }
    let replies = caller.replies(asked.len()).await;
    let mut shared = 0;
    for (id, expected) in asked {
        assert_eq!(replies[&id].outcome, Ok(vec![expected]));
        shared += u32::from(replies[&id].timing.batch_rows > 4);
    }
    assert!(shared > 200, "only {shared} of 300 shared a batch");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_datatype_goes_through_unchanged() {
    assert_eq!(echo_of_every_datatype("", ALL).await, [""; 0]);
}

/// Kept memory and graphs are for GPUs, where the same calls get other memory.
#[tokio::test(flavor = "multi_thread")]
async fn every_datatype_goes_through_kept_memory_unchanged() {
    assert_eq!(echo_of_every_datatype(KEPT_MEMORY, NO_STRINGS).await, [""; 0]);
    // ONNX Runtime does not copy BF16 from device to device.
    let graphs = [KEPT_MEMORY, GRAPHS].concat();
    assert_eq!(echo_of_every_datatype(&graphs, NO_STRINGS - 1).await, [""; 0]);
    let [note] = &echo_of_every_datatype(&graphs, NO_STRINGS).await[..] else { panic!("no note") };
    assert!(note.starts_with("batches run without a CUDA graph, because "), "{note}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_strings_keeps_no_memory_and_says_so() {
    let notes = echo_of_every_datatype(KEPT_MEMORY, ALL).await;
    let expected = "inputs and outputs have no memory of their own on the device, because strings \
                    have no memory on a device";
    assert_eq!(notes, [expected]);
}

/// The number of datatypes, and of those of a fixed size.
const ALL: usize = 14;
const NO_STRINGS: usize = ALL - 1;

/// Runs a model that returns its inputs, of the first `count` datatypes, with this config. Returns
/// its notes.
async fn echo_of_every_datatype(config: &str, count: usize) -> Vec<String> {
    let types = [
        (9, Datatype::Bool),
        (2, Datatype::Uint8),
        (4, Datatype::Uint16),
        (12, Datatype::Uint32),
        (13, Datatype::Uint64),
        (3, Datatype::Int8),
        (5, Datatype::Int16),
        (6, Datatype::Int32),
        (7, Datatype::Int64),
        (10, Datatype::Fp16),
        (1, Datatype::Fp32),
        (11, Datatype::Fp64),
        (16, Datatype::Bf16),
        (8, Datatype::Bytes),
    ];
    let types = &types[..count];
    let mut graph = Graph::default();
    for &(code, datatype) in types {
        let (x, y) = (format!("x_{datatype}"), format!("y_{datatype}"));
        let kind = Type(code, &[None, Some(2)]);
        graph = graph.input(&x, &kind).node("Identity", &[&x], &y).output(&y, &kind);
    }
    let files = [("m/1/model.onnx", graph.model()), ("m/config.pbtxt", config.into())];
    let fleet = Fleet::start(&files, &["--linger", "20ms"]).await;
    let notes = fleet.notes().await;
    let caller = fleet.caller().await;
    let mut asked = Vec::new();
    for n in 0_u8..8 {
        let data = |datatype: Datatype| match datatype {
            Datatype::Bool => vec![n & 1, 1],
            Datatype::Bytes => [&[1, 0, 0, 0, b'a' + n][..], "\x03\0\0\0ö.".as_bytes()].concat(),
            other => (0..).map(|i| n + i).take(2 * other.size().unwrap_or(0)).collect(),
        };
        let tensors = |prefix: &str| -> Vec<Tensor> {
            let name = |datatype| format!("{prefix}_{datatype}");
            types.iter().map(|&(_, t)| tensor(&name(t), t, &[1, 2], data(t))).collect()
        };
        asked.push((caller.submit(&queue(), tensors("x"), 1).await, tensors("y")));
    }
    let replies = caller.replies(asked.len()).await;
    for (id, expected) in asked {
        assert_eq!(replies[&id].outcome, Ok(expected));
    }
    fleet.stop().await;
    notes
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_all_sizes_go_through_kept_memory_and_graphs() {
    for (config, padded) in [(KEPT_MEMORY.to_owned(), 0), ([KEPT_MEMORY, GRAPHS].concat(), 1)] {
        let files = [("m/1/model.onnx", matmul(None)), ("m/config.pbtxt", config.into_bytes())];
        let fleet = Fleet::start(&files, &["--batch", "8", "--max-batch", "8"]).await;
        assert_eq!(fleet.notes().await, [""; 0]);
        let caller = fleet.caller().await;
        for rows in [3_u16, 8, 1, 5, 8, 2, 3] {
            let x: Vec<f32> = (0..3 * rows).map(f32::from).collect();
            let sum = |row: &[f32]| row[0] + 2.0 * row[1] + 3.0 * row[2];
            let y: Vec<f32> = x.chunks(3).map(sum).flat_map(|sum| [sum, 10.0 * sum]).collect();
            let input = floats("X", &[rows.into(), 3], &x);
            let reply = caller.ask(&queue(), vec![input], rows.into()).await;
            assert_eq!(reply.outcome, Ok(vec![floats("Y", &[rows.into(), 2], &y)]));
            // A graph exists for 1, 2, 4 and 8 rows.
            let missing = u32::from(rows.next_power_of_two() - rows);
            assert_eq!(reply.timing.padded_rows, missing * padded);
        }
        fleet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn misaligned_bytes_are_read_all_the_same() {
    let fleet = Fleet::start(&[("m/1/model.onnx", matmul(None))], &[]).await;
    let caller = fleet.caller().await;
    for shift in 0..4 {
        let mut input = floats("X", &[1, 3], &[1.0, 1.0, 1.0]);
        let shifted = [vec![0; shift], input.data.to_vec()].concat();
        input.data = bytes::Bytes::from(shifted).slice(shift..);
        let expected = floats("Y", &[1, 2], &[6.0, 60.0]);
        assert_eq!(caller.ask(&queue(), vec![input], 1).await.outcome, Ok(vec![expected]));
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_fixed_size_is_served_one_request_at_a_time() {
    let fleet = Fleet::start(&[("m/1/model.onnx", matmul(Some(2)))], &[]).await;
    let caller = fleet.caller().await;
    let input = floats("X", &[2, 3], &[1.0; 6]);
    for _ in 0..5 {
        caller.submit(&queue(), vec![input.clone()], 1).await;
    }
    for reply in caller.replies(5).await.into_values() {
        assert_eq!(reply.outcome, Ok(vec![floats("Y", &[2, 2], &[6.0, 60.0, 6.0, 60.0])]));
        assert_eq!(reply.timing.batch_rows, 1);
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_more_rows_than_n_gets_one_reply_in_order() {
    let fleet = Fleet::start(&[("m/1/model.onnx", matmul(None))], &["--batch", "4"]).await;
    let caller = fleet.caller().await;
    let mut asked = Vec::new();
    for rows in [30, 1, 5, 2, 17] {
        let x = |row: u8| [f32::from(row), 1.0, 1.0];
        let y = |row: u8| {
            let [first, second] = [1.0, 10.0].map(|scale: f32| f32::from(row) * scale);
            [first + 5.0, second + 50.0]
        };
        let (x, y): (Vec<_>, Vec<_>) = (0..rows).map(|row| (x(row), y(row))).unzip();
        let input = floats("X", &[rows.into(), 3], x.as_flattened());
        let expected = floats("Y", &[rows.into(), 2], y.as_flattened());
        asked.push((caller.submit(&queue(), vec![input], rows.into()).await, expected));
    }
    let replies = caller.replies(asked.len()).await;
    for (id, expected) in asked {
        let Reply { timing, outcome, .. } = &replies[&id];
        assert_eq!(*outcome, Ok(vec![expected]));
        assert!(timing.batch_rows <= 4, "{timing:?}");
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_does_not_fit_the_model_is_the_callers_fault() {
    let fleet = Fleet::start(&[("m/1/model.onnx", matmul(None))], &[]).await;
    let caller = fleet.caller().await;
    for (input, complaint) in [
        (floats("X", &[1, 4], &[0.0; 4]), "input \"X\": expected shape [-1, 3], got [1, 4]"),
        (floats("Z", &[1, 3], &[0.0; 3]), "input \"X\" is missing, or not in the model's order"),
        (
            floats("X", &[1, 3], &[0.0; 2]),
            "input \"X\": shape [1, 3] of FP32 does not hold 8 bytes",
        ),
        (
            tensor("X", Datatype::Int32, &[1, 3], vec![0; 12]),
            "input \"X\": expected FP32, got INT32",
        ),
        (floats("X", &[2, 3], &[0.0; 6]), "input \"X\" has 2 rows, but the request has 1"),
    ] {
        let error = caller.ask(&queue(), vec![input], 1).await.outcome.unwrap_err();
        assert_eq!((error.failure, error.message.as_str()), (Failure::BadInput, complaint));
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strings_of_any_bytes_go_through_unchanged() {
    const STRING: u64 = 8;
    let kind = Type(STRING, &[None]);
    let model =
        Graph::default().input("X", &kind).node("Identity", &["X"], "Y").output("Y", &kind).model();
    let fleet = Fleet::start(&[("m/1/model.onnx", model)], &["--linger", "20ms"]).await;
    let caller = fleet.caller().await;
    let jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0".repeat(1000);
    let strings = [&jpeg[..], b"\0", b"", b"a\0b", b"\xc3", "\u{fc}".as_bytes()];
    let mut asked = Vec::new();
    for string in strings {
        let length = u32::try_from(string.len()).unwrap().to_le_bytes();
        let data = [&length[..], string].concat();
        let input = tensor("X", Datatype::Bytes, &[1], data.clone());
        let expected = tensor("Y", Datatype::Bytes, &[1], data);
        asked.push((caller.submit(&queue(), vec![input], 1).await, expected));
    }
    let replies = caller.replies(asked.len()).await;
    for (id, expected) in asked {
        assert_eq!(replies[&id].outcome, Ok(vec![expected]));
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_a_model_is_refused() {
    for file in [&b"not a model"[..], &matmul(None)[..40]] {
        let files = repository(&[("m/1/model.onnx", file)]);
        let Err(error) = Fleet::try_start(files.path(), &[]).await else { panic!("it serves") };
        let error = error.to_string();
        assert!(
            error.starts_with("model m:1: ") && error.contains("is not an ONNX model"),
            "{error}"
        );
    }
    let files = repository(&[("m/1/model.onnx", b"\x08\x07")]);
    let Err(error) = Fleet::try_start(files.path(), &[]).await else { panic!("it serves") };
    assert!(matches!(error, WorkerError::Load(ModelLoadError::Model { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_contradicts_its_model_is_refused() {
    let config = b"max_batch_size: 8".to_vec();
    let files = repository(&[("m/1/model.onnx", matmul(Some(1))), ("m/config.pbtxt", config)]);
    let Err(error) = Fleet::try_start(files.path(), &[]).await else { panic!("it serves") };
    assert!(error.to_string().contains("config.pbtxt says max_batch_size 8, but"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_execution_provider_is_refused() {
    for provider in ["cuda", "tensorrt"] {
        let files = repository(&[("m/1/model.onnx", matmul(None))]);
        let Err(error) = Fleet::try_start(files.path(), &["--execution-provider", provider]).await
        else {
            panic!("{provider} serves")
        };
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("--execution-provider {provider} cannot be used: ")),
            "{text}"
        );
        assert!(error.is_settings());
        let is_of_tensorrt = text.contains("libonnxruntime_providers_tensorrt.so is not in ");
        assert_eq!(is_of_tensorrt, provider == "tensorrt", "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_library_is_refused() {
    let files = repository(&[("m/1/model.onnx", matmul(None))]);
    let flags = ["--onnxruntime", "/nowhere/libonnxruntime.so"];
    let Err(error) = Fleet::try_start(files.path(), &flags).await else { panic!("it serves") };
    assert!(error.is_settings());
    assert!(error.to_string().contains("run `make onnxruntime`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_options_computes_the_same() {
    let config = r#"
        instance_group [ { count: 2 kind: KIND_CPU } ]
        optimization { graph { level: 2 } }
        parameters { key: "intra_op_thread_count" value { string_value: "1" } }
        parameters { key: "inter_op_thread_count" value { string_value: "2" } }
        parameters { key: "execution_mode" value { string_value: "1" } }
        parameters { key: "enable_mem_pattern" value { string_value: "0" } }
        parameters { key: "memory.enable_memory_arena_shrinkage" value { string_value: "cpu:0" } }
        parameters { key: "session.use_device_allocator_for_initializers" value { string_value: "1" } }
    "#;
    let files = [("m/1/model.onnx", matmul(None)), ("m/config.pbtxt", config.into())];
    let fleet = Fleet::start(&files, &[]).await;
    let caller = fleet.caller().await;
    for n in 1_u16..20 {
        let x = [f32::from(n), 1.0, 1.0];
        let y = [f32::from(n) + 5.0, 10.0 * f32::from(n) + 50.0];
        let reply = caller.ask(&queue(), vec![floats("X", &[1, 3], &x)], 1).await;
        assert_eq!(reply.outcome, Ok(vec![floats("Y", &[1, 2], &y)]));
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_options_of_a_session_are_refused_with_the_way_out() {
    let parameter = |key: &str, value: &str| {
        format!("parameters {{ key: \"{key}\" value {{ string_value: \"{value}\" }} }}")
    };
    for (config, problem) in [
        (parameter("execution_mode", "parallel"), "is \"parallel\": expected 0 or 1"),
        ("optimization { graph { level: 7 } }".to_owned(), "optimization.graph.level 7: say -1"),
        (
            "model_operations { op_library_filename: \"ops.so\" }".to_owned(),
            "there is no op_library_filename ",
        ),
        // Every run would fail, because the memory that it is to return was never kept.
        (
            parameter("enable_mem_arena", "0")
                + &parameter("memory.enable_memory_arena_shrinkage", "cpu:0"),
            "which enable_mem_arena 0 switches off: drop one of them",
        ),
    ] {
        let files =
            repository(&[("m/1/model.onnx", matmul(None)), ("m/config.pbtxt", config.into())]);
        let Err(error) = Fleet::try_start(files.path(), &[]).await else { panic!("it serves") };
        assert!(error.to_string().contains(problem), "{error}");
    }
}
