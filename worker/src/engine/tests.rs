//! Checks that models on one device run in turn.

use std::sync::atomic::{AtomicU32, Ordering};

use batchfleet_broker::Datatype;

use super::*;
use crate::{
    batch::examples::{delivery, spec},
    layout::{JobRows, Layout},
};

/// An engine that tells how many engines of its device run at once.
struct Counting {
    spec: ModelSpec,
    running: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
}

impl Engine for Counting {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn serve_singly(&mut self) {}

    fn provider(&self) -> &'static str {
        "test"
    }

    fn run(&mut self, inputs: Vec<Tensor>, _rows: u32) -> Result<Vec<Tensor>, EngineError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        thread::yield_now();
        self.running.fetch_sub(1, Ordering::SeqCst);
        Ok(inputs)
    }
}

#[tokio::test]
async fn engines_of_one_device_run_one_at_a_time() {
    let mut turns = turns::DeviceTurns::default();
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut engines = Vec::new();
    for name in ["one", "other"] {
        let spec = spec(4);
        let engine = Counting { spec, running: Arc::clone(&running), most: Arc::clone(&most) };
        let load = move || Ok::<_, std::io::Error>((Box::new(engine) as Box<dyn Engine>, ()));
        engines.push(start(name.to_owned(), turns.of(0), load).await.unwrap().0);
    }
    let layout = Layout::of(&spec(4));
    let delivery = delivery(0, 1, 5);
    let inputs = || layout.lay_out(&[JobRows::all(&delivery.job)], 0);
    for _ in 0..200 {
        let [one, other] = [0, 1].map(|engine: usize| engines[engine].run(inputs()));
        let (one, other) = tokio::join!(one, other);
        for run in [one, other] {
            let outputs = run.unwrap().outputs.unwrap();
            assert_eq!(outputs[0][0].datatype, Datatype::Uint8);
        }
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
}
