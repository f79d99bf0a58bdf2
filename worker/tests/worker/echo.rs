//! A worker from end to end on the memory broker, with the echo engine.

use crate::fleet::{Fleet, tensor};
use batchfleet_broker::{Datatype, QueueName, Tensor};

/// One FP32 input of 4 numbers a row; `batch_ms` milliseconds a batch.
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
