//! Ends the process when a run of a model does not end.
//!
//! A call into a driver that hangs can be neither cancelled nor survived: only a new process gets
//! the device back. Meanwhile other workers take over what this one held.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use batchfleet_broker::QueueName;
use tokio::time::Instant;
use tracing::error;

/// Exit status after a run that did not end: `EX_SOFTWARE` of sysexits.h.
pub const EXIT_HUNG: u8 = 70;
/// Exit status after a device was lost: `EX_OSERR` of sysexits.h.
pub const EXIT_DEVICE: u8 = 71;

/// How often it looks.
const TICK: Duration = Duration::from_millis(100);
/// The most that may have passed between two looks: more, and the process itself was stopped.
const LONGEST_TICK: Duration = Duration::from_millis(300);
/// How long the exit may take: handlers of a driver that hangs may hang as well.
const EXIT_PATIENCE: Duration = Duration::from_millis(500);

/// Which run an engine is at, and since when.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunClock(Arc<Mutex<CurrentRun>>);

#[derive(Debug, Default)]
struct CurrentRun {
    /// Runs ever begun: the name of the latest.
    runs: u64,
    since: Option<Instant>,
}

/// A run under way; ends when dropped.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a RunClock);

impl RunClock {
    /// A run begins.
    pub(crate) fn begin(&self) -> Running<'_> {
        let mut current = lock(&self.0);
        current.runs += 1;
        current.since = Some(Instant::now());
        Running(self)
    }

    /// How long the run under way has taken so far; nothing if there is none.
    pub(crate) fn busy_for(&self) -> Duration {
        lock(&self.0).since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).since = None;
    }
}

/// A panic elsewhere leaves a current whole.
fn lock(current: &Mutex<CurrentRun>) -> MutexGuard<'_, CurrentRun> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process when a run takes longer than `limit`. Watches from a thread of its own, which
/// needs no runtime, until `pulse` is dropped.
pub(crate) fn guard(model: QueueName, pulse: &RunClock, limit: Duration) -> io::Result<()> {
    let current = Arc::downgrade(&pulse.0);
    let watch = move || {
        let (mut watch, mut looked) = (Watch::default(), Instant::now());
        while let Some(current) = current.upgrade() {
            let run = {
                let current = lock(&current);
                current.since.map(|_| current.runs)
            };
            drop(current);
            if watch.look(run, looked.elapsed()) > limit {
                error!(%model, ?limit, "a run does not end: leaving, for others to take over");
                leave(EXIT_HUNG);
            }
            looked = Instant::now();
            thread::sleep(TICK);
        }
    };
    thread::Builder::new().name("watchdog".to_owned()).spawn(watch).map(drop)
}

/// For how long the same run was seen. Only time in which somebody looked counts: a process that
/// was stopped and continues is not to blame for the time between.
#[derive(Debug, Default)]
struct Watch {
    run: Option<u64>,
    seen_for: Duration,
}

impl Watch {
    /// It is at `run`, a while after the last look.
    fn look(&mut self, run: Option<u64>, passed: Duration) -> Duration {
        if run.is_some() && run == self.run {
            self.seen_for += passed.min(LONGEST_TICK);
        } else {
            *self = Self { run, seen_for: Duration::ZERO };
        }
        self.seen_for
    }
}

/// Ends the process at once, whatever its threads are doing. What it holds is reclaimed by others.
pub fn leave(status: u8) -> ! {
    let abort_if_it_hangs = || {
        thread::sleep(EXIT_PATIENCE);
        std::process::abort();
    };
    // If there can be no such thread, the exit has to do without.
    drop(thread::Builder::new().spawn(abort_if_it_hangs));
    std::process::exit(i32::from(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_goes_on_and_on_adds_up() {
        let mut watch = Watch::default();
        for _ in 0..100 {
            assert_eq!(watch.look(None, TICK), Duration::ZERO);
        }
        for run in 1..100 {
            assert_eq!(watch.look(Some(run), TICK), Duration::ZERO);
        }
        assert_eq!((0..50).map(|_| watch.look(Some(99), TICK)).max(), Some(TICK * 50));
    }

    #[test]
    fn time_in_which_the_process_was_stopped_does_not_count() {
        let mut watch = Watch::default();
        watch.look(Some(1), TICK);
        assert_eq!(watch.look(Some(1), Duration::from_secs(20)), LONGEST_TICK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pulse_tells_how_long_the_run_has_taken() {
        let pulse = RunClock::default();
        let running = pulse.begin();
        tokio::time::advance(TICK).await;
        assert_eq!(pulse.busy_for(), TICK);
        drop(running);
        assert_eq!(pulse.busy_for(), Duration::ZERO);
    }
}
