//! Readiness: whether a process accepts work.

use std::sync::Arc;

use parking_lot::RwLock;

/// The readiness of a process, reported at /readyz. Initially not ready. Clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<RwLock<Result<(), &'static str>>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(Err("starting"))))
    }
}

impl Readiness {
    /// Marks the process as ready.
    pub fn ready(&self) {
        self.set(Ok(()));
    }

    /// Marks the process as not ready, with a reason.
    pub fn not_ready(&self, reason: &'static str) {
        self.set(Err(reason));
    }

    /// Returns whether the process is ready.
    ///
    /// # Errors
    ///
    /// The reason why the process is not ready.
    pub fn get(&self) -> Result<(), &'static str> {
        *self.0.read()
    }

    fn set(&self, state: Result<(), &'static str>) {
        *self.0.write() = state;
    }
}
