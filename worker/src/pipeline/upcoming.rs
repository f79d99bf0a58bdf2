//! A batch that the engine begins as soon as it is free. Until then, jobs can be added.
//!
//! While the engine is busy, large inputs are joined on another thread, so that the engine need not
//! wait for the copy. It joins only what was added since.

use std::{mem, sync::Arc};

use parking_lot::Mutex;
use tokio::{sync::oneshot::Receiver, task::spawn_blocking, time::Instant};

use super::joins::{JoinTimes, WORTH_JOINING};
use crate::{
    batch::Batch,
    engine::{EngineHandle, FinishedRun},
    job::HeldJob,
    kept_buffers::KeptBuffers,
    layout::{BatchInputs, JoinedAhead, Layout},
    tuner::SharedTuner,
};

/// How a model's batches are prepared.
#[derive(Clone, Debug)]
pub(super) struct Preparation {
    /// How inputs are joined.
    pub(super) layout: Layout,
    /// Where inputs are joined.
    pub(super) buffers: KeptBuffers,
    /// How long joins ahead take.
    pub(super) joins: JoinTimes,
    /// Chooses the rows of padding.
    pub(super) tuner: SharedTuner,
}

/// A batch that the engine runs now or next.
pub(super) struct Upcoming {
    stage: Arc<Mutex<Stage>>,
    /// The inputs that are joined; `None` once the engine has taken them.
    ahead: Arc<Mutex<Option<JoinedAhead>>>,
    /// Bytes of the inputs that are joined, or being joined.
    joining: u64,
    layout: Layout,
    joins: JoinTimes,
    done: Receiver<FinishedRun>,
}

/// How far a batch is.
enum Stage {
    /// The engine has not begun it.
    Waits(Batch),
    /// The engine has begun it.
    Begun(Begun),
    /// The pipeline has taken it back.
    TakenBack,
}

/// A batch that the engine has begun.
pub(super) struct Begun {
    /// The jobs that run.
    pub(super) batch: Batch,
    /// Rows that were added to the batch.
    pub(super) padding: u32,
    /// When the engine began.
    pub(super) at: Instant,
    /// The jobs that expired before, which do not run.
    pub(super) expired: Vec<HeldJob>,
}

impl Upcoming {
    /// Hands `batch` to the engine.
    pub(super) async fn offer(
        batch: Batch,
        engine: &EngineHandle,
        preparation: Preparation,
    ) -> Self {
        let Preparation { layout, buffers, joins, tuner } = preparation;
        let stage = Arc::new(Mutex::new(Stage::Waits(batch)));
        let ahead = Arc::new(Mutex::new(Some(JoinedAhead::new(buffers))));
        let begin = {
            let (stage, ahead, layout) = (Arc::clone(&stage), Arc::clone(&ahead), layout.clone());
            move || {
                let inputs = stage.lock().begin(&layout, &tuner)?;
                // Waits while inputs are being joined.
                let joined = ahead.lock().take().unwrap_or_default();
                Some(inputs.join_rest(joined))
            }
        };
        let done = engine.offer(begin).await;
        Self { stage, ahead, joining: 0, layout, joins, done }
    }

    /// Begins to join the inputs on another thread, if they are large and the engine is busy.
    pub(super) fn join_ahead(&mut self) {
        let joined = self.joining;
        let is_worth = |batch: &Batch| batch.input_bytes() >= joined + WORTH_JOINING;
        let lay_out = |batch: &mut Batch| {
            is_worth(batch).then(|| (batch.input_bytes(), batch.lay_out(&self.layout, 0)))
        };
        let Some((bytes, inputs)) = self.waiting(lay_out).flatten() else { return };
        self.joining = bytes;
        let (ahead, joins) = (Arc::clone(&self.ahead), self.joins.clone());
        let asked = Instant::now();
        drop(spawn_blocking(move || {
            if let Some(ahead) = &mut *ahead.lock() {
                inputs.join_ahead(ahead);
                joins.observe(bytes - joined, asked.elapsed());
            }
        }));
    }

    /// Reads or changes the batch, unless the engine has begun it.
    pub(super) fn waiting<T>(&self, change: impl FnOnce(&mut Batch) -> T) -> Option<T> {
        match &mut *self.stage.lock() {
            Stage::Waits(batch) => Some(change(batch)),
            Stage::Begun(_) | Stage::TakenBack => None,
        }
    }

    /// Reads the batch, and when the engine began it.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Batch, Option<Instant>) -> T) -> Option<T> {
        match &*self.stage.lock() {
            Stage::Waits(batch) => Some(look(batch, None)),
            Stage::Begun(begun) => Some(look(&begun.batch, Some(begun.at))),
            Stage::TakenBack => None,
        }
    }

    /// Waits for the end of the run; cancel-safe. `None` if the engine has not run the batch: no
    /// job was left to run, or the engine's thread has ended.
    pub(super) async fn done(&mut self) -> Option<FinishedRun> {
        (&mut self.done).await.ok()
    }

    /// The batch that the engine has begun, after [`done`](Self::done).
    pub(super) fn into_begun(self) -> Option<Begun> {
        match self.take() {
            Stage::Begun(begun) => Some(begun),
            Stage::Waits(_) | Stage::TakenBack => None,
        }
    }

    /// Takes the jobs back, unless the engine has begun the batch.
    pub(super) fn cancel(self) -> Result<Vec<HeldJob>, Self> {
        let mut stage = self.stage.lock();
        match mem::replace(&mut *stage, Stage::TakenBack) {
            Stage::Waits(batch) => Ok(batch.jobs),
            begun => {
                *stage = begun;
                drop(stage);
                Err(self)
            }
        }
    }

    /// Takes the jobs back. If the engine has begun the batch, nothing waits for its end any more.
    pub(super) fn take_back(self) -> Vec<HeldJob> {
        match self.take() {
            Stage::Waits(batch) => batch.jobs,
            Stage::Begun(begun) => begun.batch.jobs.into_iter().chain(begun.expired).collect(),
            Stage::TakenBack => Vec::new(),
        }
    }

    fn take(self) -> Stage {
        mem::replace(&mut *self.stage.lock(), Stage::TakenBack)
    }
}

impl Stage {
    /// Ends the additions and lays out the jobs that have not expired.
    fn begin(&mut self, layout: &Layout, tuner: &SharedTuner) -> Option<BatchInputs> {
        let Self::Waits(batch) = mem::replace(self, Self::TakenBack) else { return None };
        let at = Instant::now();
        let release = batch.release;
        let is_expired = |job: &HeldJob| job.delivery.deadline <= at;
        let (batch, expired) = if batch.jobs.iter().any(is_expired) {
            let (expired, jobs) = batch.jobs.into_iter().partition(is_expired);
            (Batch::new(jobs, release), expired)
        } else {
            (batch, Vec::new())
        };
        let (padding, is_alone) = {
            let mut tuner = tuner.lock();
            (tuner.padded(batch.rows) - batch.rows, tuner.has_ended_batching())
        };
        let inputs = match &batch.jobs[..] {
            [] => None,
            [job] if is_alone && padding == 0 && !job.has_begun() && !job.is_cut() => {
                Some(batch.lay_out(&Layout::of_one(), 0))
            }
            _ => Some(batch.lay_out(layout, padding)),
        };
        *self = Self::Begun(Begun { batch, padding, at, expired });
        inputs
    }
}
