//! A worker from end to end on the memory broker, with the echo engine.

use std::time::Duration;

use batchfleet_broker::{Broker, Datatype, QueueName, Tensor};
use prometheus::TextEncoder;
use tokio::{task::JoinSet, time::Instant};

use crate::fleet::{Caller, Fleet, repository, tensor};

/// The config of an echo engine with one FP32 input of 4 numbers per row. A batch takes `batch_ms`
/// ms.
fn echo(batch_ms: u32) -> String {
    format!(
        r#"backend: "batchfleet_echo"
        input {{ name: "INPUT0" data_type: TYPE_FP32 dims: 4 }}
        output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: 4 }}
        parameters {{ key: "batch_ms" value: {{ string_value: "{batch_ms}" }} }}"#
    )
}

fn numbers(first: u32, rows: u32) -> Tensor {
    let bytes = (0..rows * 4).flat_map(|n| (first + n).to_le_bytes()).collect();
    tensor("INPUT0", Datatype::Fp32, &[u64::from(rows), 4], bytes)
}

fn queue(model: &str) -> QueueName {
    QueueName::new(model, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_gets_its_own_answer() {
    let fleet = Fleet::start(&[("m/config.pbtxt", echo(1))], &["--max-batch", "16"]).await;
    let caller = fleet.caller().await;
    let mut asked = Vec::new();
    for n in 0..500 {
        let input = numbers(n * 1000, n % 5 + 1);
        asked.push((caller.submit(&queue("m"), vec![input.clone()], n % 5 + 1).await, input));
    }
    let replies = caller.replies(asked.len()).await;
    for (id, input) in asked {
        let expected = Tensor { name: "OUTPUT0".to_owned(), ..input };
        assert_eq!(replies[&id].outcome, Ok(vec![expected]));
        assert_eq!(replies[&id].digest, 7);
        assert!(replies[&id].timing.batch_rows <= 16);
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_inputs_of_any_datatype_keep_their_order() {
    let config = r#"backend: "batchfleet_echo"
        input [ { name: "A" data_type: TYPE_STRING dims: [ 2 ] },
                { name: "B" data_type: TYPE_BF16 dims: [ -1 ] } ]
        output [ { name: "C" data_type: TYPE_STRING dims: [ 2 ] },
                 { name: "D" data_type: TYPE_BF16 dims: [ -1 ] } ]"#;
    let fleet = Fleet::start(&[("m/config.pbtxt", config)], &[]).await;
    let caller = fleet.caller().await;
    let mut asked = Vec::new();
    for n in 0_u8..20 {
        let strings = [&[0; 4][..], &[3, 0, 0, 0, n, 0xff, 0]].concat();
        let wide = u64::from(n % 2) + 1;
        let halves = vec![n; 2 * usize::from(n % 2) + 2];
        let tensors = |a: &str, b: &str| {
            vec![
                tensor(a, Datatype::Bytes, &[1, 2], strings.clone()),
                tensor(b, Datatype::Bf16, &[1, wide], halves.clone()),
            ]
        };
        let id = caller.submit(&queue("m"), tensors("A", "B"), 1).await;
        asked.push((id, tensors("C", "D")));
    }
    let replies = caller.replies(asked.len()).await;
    for (id, expected) in asked {
        assert_eq!(replies[&id].outcome, Ok(expected));
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_several_models_and_versions_at_once() {
    let all = format!("{}\nversion_policy {{ all {{}} }}", echo(0));
    let files = [
        ("a/config.pbtxt", all),
        ("a/1/.keep", String::new()),
        ("a/2/.keep", String::new()),
        ("b/config.pbtxt", echo(0)),
    ];
    let fleet = Fleet::start(&files, &[]).await;
    let caller = fleet.caller().await;
    for (model, version) in [("a", 1), ("a", 2), ("b", 1)] {
        let queue = QueueName::new(model, version);
        assert!(caller.ask(&queue, vec![numbers(0, 1)], 1).await.outcome.is_ok());
    }
    let workers = fleet.broker.observer().await.unwrap().fleet().await.unwrap().workers;
    let mut names: Vec<_> =
        workers.iter().map(|worker| worker.announcement.model.queue.to_string()).collect();
    names.sort();
    assert_eq!(names, ["a:1", "a:2", "b:1"]);
    fleet.stop().await;
}

/// Sends `count` requests, each after the reply to the previous request; returns the rows of their
/// batches.
async fn ask_in_turn(caller: Caller, count: u32) -> Vec<u32> {
    let mut batches = Vec::new();
    for n in 0..count {
        batches.push(caller.ask(&queue("m"), vec![numbers(n, 1)], 1).await.timing.batch_rows);
    }
    batches
}

#[tokio::test(flavor = "multi_thread")]
async fn one_batch_is_filled_by_many_callers() {
    let fleet = Fleet::start(&[("m/config.pbtxt", echo(20))], &["--batch", "16"]).await;
    let mut callers = JoinSet::new();
    for _ in 0..32 {
        callers.spawn(ask_in_turn(fleet.caller().await, 20));
    }
    let batches = callers.join_all().await.concat();
    assert!(batches.iter().all(|&rows| rows <= 16));
    // Each batch of n rows is counted n times, once by each of its requests.
    let runs: f64 = batches.iter().map(|&rows| 1.0 / f64::from(rows)).sum();
    let mean = 640.0 / runs;
    assert!(mean >= 14.0, "mean batch {mean}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_too_slow_for_its_target_still_batches() {
    let flags = ["--slo-p99", "10ms", "--max-batch", "16"];
    let fleet = Fleet::start(&[("m/config.pbtxt", echo(30))], &flags).await;
    let caller = fleet.caller().await;
    for n in 0..64 {
        caller.submit(&queue("m"), vec![numbers(n, 1)], 1).await;
    }
    let largest = caller.replies(64).await.values().map(|reply| reply.timing.batch_rows).max();
    assert!(largest >= Some(14), "largest batch {largest:?}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_leaves_nothing_claimed_and_is_not_live() {
    let fleet = Fleet::start(&[("m/config.pbtxt", echo(50))], &["--batch", "4"]).await;
    let caller = fleet.caller().await;
    for n in 0..40 {
        caller.submit(&queue("m"), vec![numbers(n, 1)], 1).await;
    }
    caller.replies(4).await;
    let broker = fleet.broker.clone();
    fleet.stop().await;
    let observer = broker.observer().await.unwrap();
    let backlog = observer.backlog(&queue("m")).await.unwrap();
    assert_eq!(backlog.in_flight, 0);
    assert!(backlog.depth() > 0, "the shutdown was too late: no job is left");
    assert!(observer.fleet().await.unwrap().workers.iter().all(|worker| !worker.live));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_before_the_first_request() {
    let fleet = Fleet::start(&[("m/config.pbtxt", echo(0))], &["--batch", "8"]).await;
    let text = TextEncoder::new().encode_to_string(&fleet.registry.gather()).unwrap();
    for line in [
        r#"batch_size_count{model="m",version="1"} 0"#,
        r#"batch_seconds_count{model="m",version="1"} 0"#,
        r#"queue_wait_seconds_count{model="m",version="1"} 0"#,
        r#"batch_wait_seconds_count{model="m",version="1"} 0"#,
        r#"padded_rows_total{model="m",version="1"} 0"#,
        r#"released_total{model="m",reason="drained",version="1"} 0"#,
        r#"jobs_total{model="m",outcome="ok",version="1"} 0"#,
        r#"execution_provider{model="m",provider="cpu",version="1"} 1"#,
        r#"undeliverable_replies_total{model="m",version="1"} 0"#,
        r#"batch_limit{model="m",version="1"} 8"#,
        r#"reclaimed_total{model="m",version="1"} 0"#,
        r#"bisections_total{model="m",version="1"} 0"#,
        r#"engine_errors_total{class="out_of_memory",model="m",version="1"} 0"#,
        r#"jobs_total{model="m",outcome="poison",version="1"} 0"#,
        r#"jobs_total{model="m",outcome="orphaned",version="1"} 0"#,
    ] {
        assert!(text.contains(&format!("batchfleet_worker_{line}\n")), "{line} in\n{text}");
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_cannot_be_served_is_an_error_of_settings() {
    for (files, flags, complaint) in [
        (vec![], &[][..], "no model in "),
        (vec![("m/config.pbtxt", echo(0))], &["--model", "n"], "no model \"n\" in "),
        (vec![("m/config.pbtxt", "x".to_owned())], &[], "/"),
        (vec![("m/config.pbtxt", echo(0))], &["--batch", "65"], "--batch 65 is more than"),
        (vec![("m/config.pbtxt", echo(0))], &["--device", "1"], "--device 1 means nothing"),
        (
            vec![("m/config.pbtxt", echo(1200))],
            &["--max-batch-time", "1s", "--max-batch", "1"],
            "model m:1 takes 1.",
        ),
        (
            vec![("m/config.pbtxt", "backend: \"batchfleet_echo\"".to_owned())],
            &[],
            "model m:1: an echo needs",
        ),
    ] {
        let Err(error) = Fleet::try_start(repository(&files).path(), flags).await else {
            panic!("it serves")
        };
        assert!(error.is_settings(), "{error}");
        assert!(error.to_string().starts_with(complaint), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_a_model_run_batches_side_by_side() {
    const JOBS: u32 = 12;
    const BATCH: Duration = Duration::from_millis(100);
    let config = format!("{}\ninstance_group {{ count: 3 }}", echo(100));
    let fleet = Fleet::start(&[("m/config.pbtxt", config)], &["--batch", "1"]).await;
    let caller = fleet.caller().await;
    let began = Instant::now();
    for n in 0..JOBS {
        caller.submit(&queue("m"), vec![numbers(n, 1)], 1).await;
    }
    caller.replies(JOBS as usize).await;
    // One instance takes 12 batches, three take 4 each.
    let took = began.elapsed();
    assert!(took < BATCH * JOBS * 2 / 3, "{took:?}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_group_for_gpus_is_refused_without_a_gpu() {
    let config = format!("{}\ninstance_group {{ kind: KIND_GPU }}", echo(0));
    let files = repository(&[("m/config.pbtxt", config)]);
    let Err(error) = Fleet::try_start(files.path(), &[]).await else { panic!("it serves") };
    let text = error.to_string();
    assert!(
        text.contains("m:1") && text.contains("is of KIND_GPU, but this worker runs"),
        "{text}"
    );
    assert!(error.is_settings());
}
