//! Liveness: whether a restart of the process would help.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Interval at which the runtime shows that it runs tasks.
const BEAT: Duration = Duration::from_secs(1);
/// Without a beat for this time, the runtime counts as stuck.
const STUCK: Duration = Duration::from_secs(20);

type Check = dyn Fn() -> Result<(), String> + Send + Sync;

/// The checks behind /livez. Clones share them.
///
/// A check must not depend on other programs such as Redis, because a restart does not help against
/// their outages.
#[derive(Clone, Default)]
pub struct Liveness(Arc<Mutex<Vec<Box<Check>>>>);

impl Liveness {
    /// Adds a check. It must not block.
    pub fn require(&self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.0.lock().push(Box::new(check));
    }

    /// Runs all checks.
    ///
    /// # Errors
    ///
    /// The reason why the process should be restarted.
    pub fn get(&self) -> Result<(), String> {
        self.0.lock().iter().try_for_each(|check| check())
    }

    /// Task: beats as long as the runtime runs tasks, and adds the check that it does.
    pub(crate) async fn beat(self) {
        let last = Arc::new(Mutex::new(Instant::now()));
        let seen = last.clone();
        self.require(move || {
            let silent = seen.lock().elapsed();
            if silent < STUCK {
                return Ok(());
            }
            Err(format!("the tasks of this process have not run for {} s", silent.as_secs()))
        });
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            *last.lock() = Instant::now();
        }
    }
}

impl fmt::Debug for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Liveness").field(&self.0.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_runs_no_tasks_is_not_live() {
        let liveness = Liveness::default();
        let beating = tokio::spawn(liveness.clone().beat());
        tokio::time::sleep(BEAT / 2).await;
        assert_eq!(liveness.get(), Ok(()));
        beating.abort();
        tokio::time::sleep(STUCK + BEAT).await;
        let reason = "the tasks of this process have not run for 21 s";
        assert_eq!(liveness.get(), Err(reason.to_owned()));
    }
}
