//! Work that takes long, done where it holds nobody up.

use std::sync::Arc;

use actix_web::web;
use tokio::sync::Semaphore;

use batchfleet_oip::Problem;

/// Work on more bytes than these leaves the thread that serves connections.
const INLINE: usize = 64 << 10;

/// Threads for long work: one less at a time than there are cores, so that serving others goes on.
#[derive(Debug)]
pub(crate) struct Offload {
    turns: Arc<Semaphore>,
}

impl Offload {
    /// Leaves a core of this machine to others, if it has several.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { turns: Arc::new(Semaphore::new(cores.saturating_sub(1).max(1))) }
    }

    /// Does `work`, which goes over `bytes` bytes; here and now if they are few.
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
        let turned = move || {
            let _turn = turn; // Kept by the work itself: its caller may leave before it ends.
            work()
        };
        web::block(turned).await.map_err(|_| failed())
    }
}
