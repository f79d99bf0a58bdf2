//! Readiness: whether a process should get work.

use std::sync::Arc;

use parking_lot::RwLock;

/// The readiness of a process, reported at /readyz. Initially not ready. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<RwLock<State>>);

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Why the process should get no work although it runs.
    obstacle: Option<&'static str>,
    /// What does not work, although the process should still get work.
    warning: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    Running,
    Draining,
}

impl Readiness {
    /// Marks the process as started.
    pub fn ready(&self) {
        let mut state = self.0.write();
        if state.phase == Phase::Starting {
            state.phase = Phase::Running;
        }
    }

    /// Marks the process as not ready for good, because its shutdown has begun.
    pub fn drain(&self) {
        self.0.write().phase = Phase::Draining;
    }

    /// Sets why the process should get no work at present; `None` if it should.
    pub fn set_obstacle(&self, obstacle: Option<&'static str>) {
        let mut state = self.0.write();
        if state.obstacle != obstacle {
            if let Some(reason) = obstacle {
                tracing::warn!(reason, "not ready");
            } else {
                tracing::info!("no longer an obstacle to readiness");
            }
            state.obstacle = obstacle;
        }
    }

    /// Sets what does not work although the process should get work; shown at /readyz.
    pub fn set_warning(&self, warning: Option<&'static str>) {
        self.0.write().warning = warning;
    }

    /// Returns whether the process is ready, with a warning if something does not work.
    ///
    /// # Errors
    ///
    /// The reason why the process is not ready.
    pub fn get(&self) -> Result<Option<&'static str>, &'static str> {
        let state = self.0.read();
        match (state.phase, state.obstacle) {
            (Phase::Starting, _) => Err("starting"),
            (Phase::Draining, _) => Err("draining"),
            (Phase::Running, Some(obstacle)) => Err(obstacle),
            (Phase::Running, None) => Ok(state.warning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_obstacle_ends_and_the_drain_does_not() {
        let readiness = Readiness::default();
        readiness.set_obstacle(Some("away"));
        assert_eq!(readiness.get(), Err("starting"));
        readiness.ready();
        assert_eq!(readiness.get(), Err("away"));
        readiness.set_obstacle(None);
        readiness.set_warning(Some("slow"));
        assert_eq!(readiness.get(), Ok(Some("slow")));
        readiness.drain();
        readiness.ready();
        readiness.set_obstacle(None);
        assert_eq!(readiness.get(), Err("draining"));
    }
}
