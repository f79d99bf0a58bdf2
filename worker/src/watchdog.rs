//! Ends the process when a run of a model hangs.
//!
//! A hung call into a driver cannot be cancelled, and only a new process can use the device again.
//! Meanwhile other workers reclaim the jobs of this worker.

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use batchfleet_broker::QueueName;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::error;

/// Exit status after a run hung: `EX_SOFTWARE` of sysexits.h.
pub const EXIT_HUNG: u8 = 70;
/// Exit status after the device was lost: `EX_OSERR` of sysexits.h.
pub const EXIT_DEVICE: u8 = 71;

/// Interval between the watchdog's checks.
const TICK: Duration = Duration::from_millis(100);
/// Maximum time counted between two checks: after a longer gap, the process itself was stopped.
const LONGEST_TICK: Duration = Duration::from_millis(300);
/// Time limit for a regular exit, after which the process aborts: the exit handlers of a hung
/// driver may hang as well.
const EXIT_PATIENCE: Duration = Duration::from_millis(500);

/// Time limit for writing the waiting log lines. Less than [`EXIT_PATIENCE`], so that a log that
/// nothing reads does not change the exit status.
const FLUSH_PATIENCE: Duration = Duration::from_millis(200);

/// Measures how long the current run of an engine has taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunClock(Arc<Mutex<CurrentRun>>);

#[derive(Debug, Default)]
struct CurrentRun {
    /// Number of runs begun so far, which identifies the latest run.
    runs: u64,
    since: Option<Instant>,
    /// The time of all runs before the current one, and of the waits for them.
    busy: Duration,
}

/// A run in progress, which ends when this guard is dropped.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a RunClock);

impl RunClock {
    /// Starts to measure a run.
    pub(crate) fn begin(&self) -> Running<'_> {
        let mut current = self.0.lock();
        current.runs += 1;
        current.since = Some(Instant::now());
        Running(self)
    }

    /// Counts a wait for the turn on a device that other models use. The device is busy meanwhile.
    pub(crate) fn add_wait(&self, waited: Duration) {
        self.0.lock().busy += waited;
    }

    /// How long the current run has taken so far; 0 between runs.
    pub(crate) fn busy_for(&self) -> Duration {
        self.0.lock().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How long all runs have taken so far, the current one and the waits for the device included.
    pub(crate) fn busy_in_total(&self) -> Duration {
        let current = self.0.lock();
        current.busy + current.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut current = self.0.0.lock();
        if let Some(since) = current.since.take() {
            current.busy += since.elapsed();
        }
    }
}

/// Ends the process when a run takes longer than `limit`. A separate thread, independent of the
/// async runtime, watches until `clock` is dropped.
pub(crate) fn guard(model: QueueName, clock: &RunClock, limit: Duration) -> io::Result<()> {
    let clock = Arc::downgrade(&clock.0);
    let watch = move || {
        let (mut detector, mut looked) = (HangDetector::default(), Instant::now());
        while let Some(clock) = clock.upgrade() {
            let run = {
                let current = clock.lock();
                current.since.map(|_| current.runs)
            };
            drop(clock);
            if detector.look(run, looked.elapsed()) > limit {
                leave(EXIT_HUNG, || {
                    // The status of a fleet takes over the field `reason` of the last error.
                    let reason = format!("a batch took longer than {limit:?}");
                    error!(%model, ?limit, reason, "run hung: exiting, for other workers to take over");
                });
            }
            looked = Instant::now();
            thread::sleep(TICK);
        }
    };
    thread::Builder::new().name("watchdog".to_owned()).spawn(watch).map(drop)
}

/// Measures how long the same run has been observed. Time during which the process itself was
/// stopped does not count: the gap between checks is then longer than [`LONGEST_TICK`].
#[derive(Debug, Default)]
struct HangDetector {
    run: Option<u64>,
    seen_for: Duration,
}

impl HangDetector {
    /// Records a check that found the engine at `run`, `passed` after the previous check. Returns
    /// how long the run has been observed.
    fn look(&mut self, run: Option<u64>, passed: Duration) -> Duration {
        if run.is_some() && run == self.run {
            self.seen_for += passed.min(LONGEST_TICK);
        } else {
            *self = Self { run, seen_for: Duration::ZERO };
        }
        self.seen_for
    }
}

/// Ends the process immediately, regardless of its threads, after the log lines of `log`. Other
/// workers reclaim its jobs.
pub fn leave(status: u8, log: impl FnOnce()) -> ! {
    let abort_if_it_hangs = || {
        thread::sleep(EXIT_PATIENCE);
        std::process::abort();
    };
    // Exit even if the thread cannot start, although the exit may then hang.
    drop(thread::Builder::new().spawn(abort_if_it_hangs));
    // Only after the end is certain: nothing may read the log.
    log();
    flush_within(FLUSH_PATIENCE);
    std::process::exit(i32::from(status))
}

fn flush_within(limit: Duration) {
    let (done, flushed) = mpsc::channel();
    let flush = move || {
        batchfleet_service::flush_logs();
        // The receiver may have stopped waiting.
        done.send(()).ok();
    };
    if thread::Builder::new().spawn(flush).is_ok() {
        // Fails after the limit; there is nothing else to do then.
        flushed.recv_timeout(limit).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_continues_adds_up() {
        let mut detector = HangDetector::default();
        for _ in 0..100 {
            assert_eq!(detector.look(None, TICK), Duration::ZERO);
        }
        for run in 1..100 {
            assert_eq!(detector.look(Some(run), TICK), Duration::ZERO);
        }
        assert_eq!((0..50).map(|_| detector.look(Some(99), TICK)).max(), Some(TICK * 50));
    }

    #[test]
    fn time_in_which_the_process_was_stopped_does_not_count() {
        let mut detector = HangDetector::default();
        detector.look(Some(1), TICK);
        assert_eq!(detector.look(Some(1), Duration::from_secs(20)), LONGEST_TICK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_measures_how_long_the_run_has_taken() {
        let clock = RunClock::default();
        let running = clock.begin();
        tokio::time::advance(TICK).await;
        assert_eq!(clock.busy_for(), TICK);
        drop(running);
        assert_eq!(clock.busy_for(), Duration::ZERO);
    }
}
