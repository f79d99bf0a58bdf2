//! Liveness: whether a restart of the process would help.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

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
pub struct Liveness(Arc<Mutex<Checks>>);

#[derive(Default)]
struct Checks {
    /// Whether the runtime runs tasks.
    beat: Option<Box<Check>>,
    /// The checks of components.
    components: Vec<Weak<Check>>,
}

/// The check of a component, which counts until this is dropped.
pub struct LivenessCheck(Arc<Check>);

impl Liveness {
    /// Adds a check, which counts until the returned value is dropped. It must not block.
    #[must_use]
    pub fn require(
        &self,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> LivenessCheck {
        let check: Arc<Check> = Arc::new(check);
        let mut checks = self.0.lock();
        checks.components.retain(|check| check.strong_count() > 0);
        checks.components.push(Arc::downgrade(&check));
        LivenessCheck(check)
    }

    /// Runs all checks.
    ///
    /// # Errors
    ///
    /// The reason why the process should be restarted.
    pub fn get(&self) -> Result<(), String> {
        let checks = self.0.lock();
        checks.beat.as_ref().map_or(Ok(()), |check| check())?;
        checks.components.iter().filter_map(Weak::upgrade).try_for_each(|check| check())
    }

    /// Task: beats as long as the runtime runs tasks, and adds the check that it does.
    pub(crate) async fn beat(self) {
        let last = Arc::new(Mutex::new(Instant::now()));
        let seen = last.clone();
        self.0.lock().beat = Some(Box::new(move || {
            let silent = seen.lock().elapsed();
            if silent < STUCK {
                return Ok(());
            }
            Err(format!("the tasks of this process have not run for {} s", silent.as_secs()))
        }));
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
        f.debug_tuple("Liveness").field(&self.0.lock().components.len()).finish()
    }
}

impl fmt::Debug for LivenessCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LivenessCheck").field(&(self.0)()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_counts_until_it_is_dropped() {
        let liveness = Liveness::default();
        let kept = liveness.require(|| Ok(()));
        let hung = liveness.require(|| Err("hung".to_owned()));
        assert_eq!(liveness.get(), Err("hung".to_owned()));
        drop(hung);
        assert_eq!(liveness.get(), Ok(()));
        drop(kept);
    }

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
