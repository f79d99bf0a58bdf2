//! What runs a model, and the thread that owns it.
//!
//! A run blocks for as long as the model computes, so it never happens on an async thread: each
//! engine lives on a thread of its own and takes batches over a channel, one at a time.

pub(crate) mod echo;
pub(crate) mod onnx;

use std::{thread, time::Duration};

use batchfleet_broker::{ModelSpec, Tensor};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    tensors::{self, Column},
    watchdog::Pulse,
};

/// A loaded model. It runs one batch at a time.
pub(crate) trait Engine {
    /// What the model takes and gives.
    fn spec(&self) -> &ModelSpec;

    /// Where it runs: the name of an execution provider.
    fn provider(&self) -> &'static str;

    /// Whether its strings must be text: UTF-8 without NUL.
    fn text_only(&self) -> bool;

    /// Runs the model on a whole batch of `rows`. `inputs` fit the spec, in its order; so do the
    /// outputs.
    fn run(&mut self, inputs: Vec<Tensor>, rows: u32) -> Result<Vec<Tensor>, EngineError>;
}

/// Why a run gave no outputs.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The model failed.
    #[error("the model failed: {0}")]
    Failed(String),
    /// It gave something that cannot be told apart by request.
    #[error("output {name:?} of shape {shape:?} does not hold {rows} rows")]
    Rows {
        /// The output.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Rows of the batch.
        rows: u32,
    },
}

/// A batch for the engine.
#[derive(Debug)]
pub(crate) struct Work {
    /// Its inputs, one column each, in the order of the spec.
    pub(crate) columns: Vec<Column>,
    /// Rows of each request in it.
    pub(crate) rows: Vec<u32>,
    /// Where the result goes.
    pub(crate) done: oneshot::Sender<Ran>,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The outputs of each request.
    pub(crate) outputs: Result<Vec<Vec<Tensor>>, EngineError>,
    /// When it began.
    pub(crate) began: Instant,
    /// Time spent joining inputs.
    pub(crate) input: Duration,
    /// Time spent running the model.
    pub(crate) infer: Duration,
    /// Time spent splitting outputs.
    pub(crate) output: Duration,
}

/// The way to an engine on its thread, which ends when the handle is dropped.
#[derive(Debug)]
pub(crate) struct EngineHandle {
    work: mpsc::Sender<Work>,
    pulse: Pulse,
}

impl EngineHandle {
    /// A handle, and what must serve it.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Work>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self { work: sender, pulse: Pulse::default() }, receiver)
    }

    /// Tells how long a result has been owed.
    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Runs a batch; `None` if the engine's thread is gone.
    pub(crate) async fn run(&self, columns: Vec<Column>, rows: Vec<u32>) -> Option<Ran> {
        let (done, ran) = oneshot::channel();
        let _running = self.pulse.begin();
        self.work.send(Work { columns, rows, done }).await.ok()?;
        ran.await.ok()
    }
}

/// Starts a thread named `name` that builds an engine with `load`, tells what `load` learnt of it,
/// and then serves the handle.
pub(crate) async fn start<T, E, L>(name: String, load: L) -> Result<(EngineHandle, T), E>
where
    T: Send + 'static,
    E: From<std::io::Error> + Send + 'static,
    L: FnOnce() -> Result<(Box<dyn Engine>, T), E> + Send + 'static,
{
    let (handle, mut work) = EngineHandle::channel();
    let (loaded, learnt) = oneshot::channel();
    thread::Builder::new().name(name).spawn(move || match load() {
        Ok((mut engine, learnt)) => {
            if loaded.send(Ok(learnt)).is_ok() {
                serve(engine.as_mut(), &mut work);
            }
        }
        // Nobody who asked is left to tell.
        Err(error) => drop(loaded.send(Err(error))),
    })?;
    let learnt = learnt.await.map_err(|_| std::io::Error::other("the engine's thread panicked"))?;
    Ok((handle, learnt?))
}

fn serve(engine: &mut dyn Engine, work: &mut mpsc::Receiver<Work>) {
    while let Some(Work { columns, rows, done }) = work.blocking_recv() {
        // A pipeline that is gone wants no result.
        drop(done.send(run(engine, columns, &rows)));
    }
}

/// Joins, runs, splits.
pub(crate) fn run(engine: &mut dyn Engine, columns: Vec<Column>, rows: &[u32]) -> Ran {
    let batches = engine.spec().batches();
    let began = Instant::now();
    let inputs = tensors::join(columns);
    let joined = Instant::now();
    let outputs = engine.run(inputs, rows.iter().sum());
    let inferred = Instant::now();
    let outputs =
        outputs.and_then(
            |outputs| if batches { tensors::split(outputs, rows) } else { Ok(vec![outputs]) },
        );
    let (input, infer, output) = (joined - began, inferred - joined, inferred.elapsed());
    Ran { outputs, began, input, infer, output }
}
