//! Engines, which run models, and the threads that own them.
//!
//! A run blocks for as long as the model computes, so it never happens on an async thread: each
//! engine lives on a thread of its own and takes batches over a channel, one at a time.

pub(crate) mod echo;
pub(crate) mod onnx;

use std::{error::Error, sync::Arc, thread, time::Duration};

use batchfleet_broker::{ModelSpec, Tensor};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    layout::{BatchInputs, UnevenOutput},
    watchdog::RunClock,
};

/// A loaded model. It runs one batch at a time.
pub(crate) trait Engine {
    /// The model's inputs and outputs.
    fn spec(&self) -> &ModelSpec;

    /// The name of the execution provider that runs the model.
    fn provider(&self) -> &'static str;

    /// Whether strings must be text: UTF-8 without NUL.
    fn text_only(&self) -> bool;

    /// Runs the model on a whole batch of `rows`. Inputs and outputs fit the spec, in its order.
    fn run(&mut self, inputs: Vec<Tensor>, rows: u32) -> Result<Vec<Tensor>, EngineError>;
}

/// Why a run gave no outputs.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The runtime reported an error.
    #[error("the model failed: {0}")]
    Failed(#[source] RunError),
    /// An output cannot be split among the requests of its batch.
    #[error(transparent)]
    Uneven(#[from] UnevenOutput),
}

impl EngineError {
    /// The runtime reported `source`, without a code.
    pub(crate) fn failed(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(RunError::new(RunErrorCode::Unspecific, source))
    }
}

/// What a runtime reported about a failed run.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{source}")]
pub struct RunError {
    code: RunErrorCode,
    source: Arc<dyn Error + Send + Sync>,
}

impl RunError {
    /// The runtime reported `source`, classified as `code`.
    pub(crate) fn new(code: RunErrorCode, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code, source: Arc::from(source.into()) }
    }

    /// What the runtime's own code says about the cause.
    pub(crate) const fn code(&self) -> RunErrorCode {
        self.code
    }
}

/// The causes that a runtime tells apart by code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunErrorCode {
    /// The model cannot take these inputs.
    InvalidInput,
    /// The device was reset under the process.
    DeviceReset,
    /// The code says nothing about the cause.
    Unspecific,
}

/// A batch for the engine.
#[derive(Debug)]
pub(crate) struct Work {
    /// The inputs of its requests.
    pub(crate) inputs: BatchInputs,
    /// Takes the result.
    pub(crate) done: oneshot::Sender<EngineRun>,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct EngineRun {
    /// The outputs of each request.
    pub(crate) outputs: Result<Vec<Vec<Tensor>>, EngineError>,
    /// When the engine began with the batch.
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
    clock: RunClock,
}

impl EngineHandle {
    /// A handle, and the channel that an engine must serve.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Work>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self { work: sender, clock: RunClock::default() }, receiver)
    }

    /// Measures how long the current run has taken.
    pub(crate) fn clock(&self) -> &RunClock {
        &self.clock
    }

    /// Runs a batch; `None` if the engine's thread is gone.
    pub(crate) async fn run(&self, inputs: BatchInputs) -> Option<EngineRun> {
        let (done, run) = oneshot::channel();
        let _running = self.clock.begin();
        self.work.send(Work { inputs, done }).await.ok()?;
        run.await.ok()
    }
}

/// Starts a thread named `name` that builds an engine with `load` and then serves the handle.
/// Returns what `load` returned beside the engine.
pub(crate) async fn start<T, E, L>(name: String, load: L) -> Result<(EngineHandle, T), E>
where
    T: Send + 'static,
    E: From<std::io::Error> + Send + 'static,
    L: FnOnce() -> Result<(Box<dyn Engine>, T), E> + Send + 'static,
{
    let (handle, mut work) = EngineHandle::channel();
    let (loaded, on_load) = oneshot::channel();
    thread::Builder::new().name(name).spawn(move || match load() {
        Ok((mut engine, result)) => {
            if loaded.send(Ok(result)).is_ok() {
                serve(engine.as_mut(), &mut work);
            }
        }
        // The receiver may be gone.
        Err(error) => drop(loaded.send(Err(error))),
    })?;
    let result = on_load.await;
    let result = result.map_err(|_| std::io::Error::other("the engine's thread panicked"))?;
    Ok((handle, result?))
}

fn serve(engine: &mut dyn Engine, work: &mut mpsc::Receiver<Work>) {
    while let Some(Work { inputs, done }) = work.blocking_recv() {
        // The pipeline may have stopped waiting.
        drop(done.send(run(engine, inputs)));
    }
}

/// Joins the inputs, runs the model, splits the outputs.
fn run(engine: &mut dyn Engine, inputs: BatchInputs) -> EngineRun {
    let began = Instant::now();
    let (inputs, slots) = inputs.join();
    let joined = Instant::now();
    let outputs = engine.run(inputs, slots.rows());
    let inferred = Instant::now();
    let outputs = outputs.and_then(|outputs| Ok(slots.split(outputs)?));
    let (input, infer, output) = (joined - began, inferred - joined, inferred.elapsed());
    EngineRun { outputs, began, input, infer, output }
}
