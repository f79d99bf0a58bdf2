//! Whether this process should be sent work.

use std::sync::Arc;

use parking_lot::RwLock;

/// Shared by the parts of a process: some set it, the admin port tells it. Starts as not ready.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<RwLock<Result<(), &'static str>>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(Err("starting"))))
    }
}

impl Readiness {
    /// Work may come.
    pub fn ready(&self) {
        self.set(Ok(()));
    }

    /// Work must go elsewhere, and why.
    pub fn not_ready(&self, reason: &'static str) {
        self.set(Err(reason));
    }

    /// Whether work may come.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn get(&self) -> Result<(), &'static str> {
        *self.0.read()
    }

    fn set(&self, state: Result<(), &'static str>) {
        *self.0.write() = state;
    }
}
