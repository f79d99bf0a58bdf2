//! Engines, which run models, and the threads that own them.
//!
//! A run blocks its thread while the model computes. Each engine therefore has its own thread,
//! which takes batches from a channel, one at a time. The channel holds the next batch while one
//! runs, so that the engine need not wait for the pipeline between two runs.

pub(crate) mod echo;
pub(crate) mod onnx;
mod prepared;
pub(crate) mod turns;

use std::{error::Error, sync::Arc, thread, time::Duration};

use batchfleet_broker::{ModelSpec, Tensor};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::turns::DeviceTurn;
use crate::{
    layout::{BatchInputs, BatchSlots, UnevenOutput},
    watchdog::RunClock,
};

/// A loaded model. It runs one batch at a time.
pub(crate) trait Engine {
    /// The model's inputs and outputs.
    fn spec(&self) -> &ModelSpec;

    /// Makes the model one that does not batch: from now on, [`spec`](Self::spec) says so.
    fn serve_singly(&mut self);

    /// The name of the execution provider that runs the model.
    fn provider(&self) -> &'static str;

    /// Places where a run copies data between the device and the processor within the model.
    fn memcpy_nodes(&self) -> u32 {
        0
    }

    /// Whether the engine runs only some batch sizes in its best way, so that batches should be padded
    /// to the sizes that are prepared.
    fn has_sizes(&self) -> bool {
        false
    }

    /// What users should know of how this engine runs the model, as sentences.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Prepares the engine for batches of `rows` rows like these inputs. Called during the warm-up
    /// only, before batches of this size are measured. Fails only if such a batch cannot run.
    fn prepare(
        &mut self,
        _inputs: &[Tensor],
        _rows: u32,
        _alike: Alike<'_>,
    ) -> Result<(), EngineError> {
        Ok(())
    }

    /// Returns memory of the device that earlier batches needed, by a run of these inputs. Returns
    /// whether it did, so that the next large batch gets new memory.
    fn return_memory(&mut self, _inputs: &[Tensor]) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Runs the model on a batch of `rows` rows. Inputs and outputs match the spec, in the same
    /// order.
    fn run(&mut self, inputs: Vec<Tensor>, rows: u32) -> Result<Vec<Tensor>, EngineError>;
}

/// Tells whether two outputs of a batch are the same, but for rounding.
pub(crate) type Alike<'a> = &'a dyn Fn(&[Tensor], &[Tensor]) -> bool;

/// Why a run failed.
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
    /// Wraps a runtime error that has no code.
    pub(crate) fn failed(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(RunError::new(RunErrorCode::Unspecific, source))
    }
}

/// A runtime's error from a failed run.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{source}")]
pub struct RunError {
    code: RunErrorCode,
    source: Arc<dyn Error + Send + Sync>,
}

impl RunError {
    /// Wraps a runtime error that is classified as `code`.
    pub(crate) fn new(code: RunErrorCode, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code, source: Arc::from(source.into()) }
    }

    /// The cause of the failure, according to the runtime's error code.
    pub(crate) const fn code(&self) -> RunErrorCode {
        self.code
    }
}

/// The causes of failure that a runtime distinguishes by error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunErrorCode {
    /// The model cannot take these inputs.
    InvalidInput,
    /// The device was reset while the process used it.
    DeviceReset,
    /// The code does not identify the cause.
    Unspecific,
}

/// The model's inputs for a batch, and which rows belong to which request.
pub(crate) type JoinedInputs = (Vec<Tensor>, BatchSlots);

/// A batch for the engine.
pub(crate) struct Work {
    /// Returns the joined inputs of the batch's requests, once the engine is free; `None` if no request
    /// is left to run.
    pub(crate) begin: Box<dyn FnOnce() -> Option<JoinedInputs> + Send>,
    /// Sends the result to the pipeline.
    pub(crate) done: oneshot::Sender<FinishedRun>,
}

/// The outputs of a batch, not split yet.
#[derive(Debug)]
pub(crate) struct FinishedRun {
    /// The outputs of the whole batch.
    pub(crate) outputs: Result<Vec<Tensor>, EngineError>,
    /// Which rows belong to which request.
    pub(crate) slots: BatchSlots,
    /// When the run of the model started.
    pub(crate) started: Instant,
    /// Time that the free engine spent on joining inputs.
    pub(crate) input: Duration,
    /// Time spent running the model.
    pub(crate) infer: Duration,
    /// Time from the end of the previous run to the start of this run. `None` if the engine had to
    /// wait for the batch.
    pub(crate) gap: Option<Duration>,
    /// After a failed run: the engine begins no other batch until this is dropped, because the
    /// failure may change what should run next.
    pub(crate) pause: Option<oneshot::Sender<()>>,
}

/// The result of running a batch.
#[derive(Debug)]
pub(crate) struct EngineRun {
    /// The outputs of each request.
    pub(crate) outputs: Result<Vec<Vec<Tensor>>, EngineError>,
    /// When the run of the model started.
    pub(crate) started: Instant,
    /// Time that the free engine spent on joining inputs.
    pub(crate) input: Duration,
    /// Time spent running the model.
    pub(crate) infer: Duration,
    /// Time spent splitting outputs.
    pub(crate) output: Duration,
    /// Time from the end of the previous run to the start of this run. `None` if the engine had to
    /// wait for the batch.
    pub(crate) gap: Option<Duration>,
}

impl FinishedRun {
    /// Splits the outputs among the requests. The pipeline does this, so that the engine can begin
    /// the next batch.
    pub(crate) fn split(self) -> EngineRun {
        let Self { outputs, slots, started, input, infer, gap, pause: _ } = self;
        let inferred = Instant::now();
        let outputs = outputs.and_then(|outputs| Ok(slots.split(outputs)?));
        EngineRun { outputs, started, input, infer, output: inferred.elapsed(), gap }
    }
}

/// A handle to an engine. The engine's thread ends when the handle is dropped.
#[derive(Debug)]
pub(crate) struct EngineHandle {
    work: mpsc::Sender<Work>,
    clock: RunClock,
    /// Cancelled once the engine's thread has freed the engine.
    ended: CancellationToken,
}

impl EngineHandle {
    /// Creates a handle, and the channel from which its engine takes batches.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Work>) {
        let (sender, receiver) = mpsc::channel(1);
        let (clock, ended) = (RunClock::default(), CancellationToken::new());
        (Self { work: sender, clock, ended }, receiver)
    }

    /// The clock that measures the current run.
    pub(crate) fn clock(&self) -> &RunClock {
        &self.clock
    }

    /// Cancelled once the engine is freed, some time after the handle is dropped.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// A check for /livez: fails if the engine's thread has ended, or if a run takes longer than
    /// twice the `limit` after which the watchdog ends the process.
    pub(crate) fn liveness(
        &self,
        model: String,
        limit: Duration,
    ) -> impl Fn() -> Result<(), String> + Send + Sync + use<> {
        // A strong handle would keep the engine's thread alive.
        let (work, clock) = (self.work.downgrade(), self.clock.clone());
        move || {
            if work.upgrade().is_some_and(|work| work.is_closed()) {
                return Err(format!("the engine of model {model} has crashed"));
            }
            let busy = clock.busy_for();
            if busy > limit.saturating_mul(2) {
                return Err(format!("a run of model {model} has taken {} s", busy.as_secs()));
            }
            Ok(())
        }
    }

    /// Hands over a batch, which the engine begins as soon as it is free. Waits while another batch
    /// is next. The receiver fails if `begin` returns no inputs, and if the engine's thread has
    /// ended.
    pub(crate) async fn offer(
        &self,
        begin: impl FnOnce() -> Option<JoinedInputs> + Send + 'static,
    ) -> oneshot::Receiver<FinishedRun> {
        let (done, run) = oneshot::channel();
        // A failed send drops `done`.
        drop(self.work.send(Work { begin: Box::new(begin), done }).await);
        run
    }

    /// Runs a batch; `None` if the engine's thread has ended.
    pub(crate) async fn run(&self, inputs: BatchInputs) -> Option<EngineRun> {
        Some(self.offer(move || Some(inputs.join())).await.await.ok()?.split())
    }
}

/// Starts a thread named `name` that builds an engine with `load` and then runs the handle's
/// batches, each in its `turn` on the device. Returns the handle and the second value from `load`.
pub(crate) async fn start<T, E, L>(
    name: String,
    turn: DeviceTurn,
    load: L,
) -> Result<(EngineHandle, T), E>
where
    T: Send + 'static,
    E: From<std::io::Error> + Send + 'static,
    L: FnOnce() -> Result<(Box<dyn Engine>, T), E> + Send + 'static,
{
    let (handle, mut work) = EngineHandle::channel();
    let (clock, ended) = (handle.clock.clone(), handle.ended());
    let (loaded, on_load) = oneshot::channel();
    thread::Builder::new().name(name).spawn(move || {
        // Dropped last, also if the engine panics.
        let _ended = ended.drop_guard();
        match load() {
            Ok((mut engine, result)) => {
                if loaded.send(Ok(result)).is_ok() {
                    serve(engine.as_mut(), &mut work, &clock, &turn);
                }
            }
            // The caller of `start` may have stopped waiting.
            Err(error) => drop(loaded.send(Err(error))),
        }
    })?;
    let result = on_load.await;
    let result = result.map_err(|_| std::io::Error::other("the engine's thread panicked"))?;
    Ok((handle, result?))
}

fn serve(
    engine: &mut dyn Engine,
    work: &mut mpsc::Receiver<Work>,
    clock: &RunClock,
    turn: &DeviceTurn,
) {
    let mut ended = None;
    loop {
        // Without work, the next run does not follow the last one.
        let next = work.try_recv().ok().or_else(|| {
            ended = None;
            work.blocking_recv()
        });
        let Some(Work { begin, done }) = next else { return };
        let began = Instant::now();
        let Some((inputs, slots)) = begin() else { continue };
        let joined = Instant::now();
        let turn = turn.wait();
        clock.add_wait(joined.elapsed());
        let input = joined - began;
        let running = clock.begin();
        let started = Instant::now();
        let outputs = engine.run(inputs, slots.rows());
        let infer = started.elapsed();
        drop(running);
        drop(turn);
        let gap = ended.map(|ended| started.saturating_duration_since(ended));
        ended = Some(started + infer);
        let mut run = FinishedRun { outputs, slots, started, input, infer, gap, pause: None };
        let paused = run.outputs.is_err().then(|| {
            let (pause, paused) = oneshot::channel();
            run.pause = Some(pause);
            paused
        });
        // The pipeline may have stopped waiting.
        drop(done.send(run));
        if let Some(paused) = paused {
            drop(paused.blocking_recv());
        }
    }
}

#[cfg(test)]
mod tests;
