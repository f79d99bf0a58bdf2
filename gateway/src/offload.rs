//! Runs long work off the threads that serve connections.

use std::sync::Arc;

use batchfleet_oip::Problem;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Maximum number of bytes processed on a thread that serves connections.
const INLINE: usize = 64 << 10;

/// Limits the number of threads with long work to one fewer than the number of cores, so that one
/// core is left to serve connections.
#[derive(Debug)]
pub(crate) struct Offload {
    turns: Arc<Semaphore>,
}

impl Offload {
    /// Allows one thread per core except one, but at least one.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { turns: Arc::new(Semaphore::new(cores.saturating_sub(1).max(1))) }
    }

    /// Runs `work`, which processes `bytes` bytes: inline up to [`INLINE`], otherwise on the
    /// blocking pool of the current runtime, once a turn is free.
    ///
    /// # Errors
    ///
    /// 500 `internal`: the work panicked.
    pub(crate) async fn run<T>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
    {
        if bytes <= INLINE {
            return Ok(work());
        }
        let failed = || Problem::internal("an internal task failed");
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| failed())?;
        let work_in_turn = move || {
            let _turn = turn; // Held by the work itself, because the request may be cancelled earlier.
            work()
        };
        spawn_blocking(work_in_turn).await.map_err(|_| failed())
    }
}
