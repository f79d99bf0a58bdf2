//! How late the machine is: a promise about time cannot be judged while the machine runs other work.

use std::{sync::Arc, thread, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::journal::quantile;

/// How long the thread sleeps.
const NAP: Duration = Duration::from_millis(5);
/// A machine that is later than this is too busy to be judged. The load of the faults alone makes it
/// late by at most a few milliseconds.
const BUSY: Duration = Duration::from_millis(5);

/// A thread that sleeps and records how much too late it wakes up.
pub(crate) struct Machine {
    late: Arc<Mutex<Vec<Duration>>>,
}

impl Machine {
    /// Starts the thread. It runs until the program ends.
    pub(crate) fn watch() -> Self {
        let late = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&late);
        thread::spawn(move || {
            loop {
                let began = Instant::now();
                thread::sleep(NAP);
                recorded.lock().push(began.elapsed().saturating_sub(NAP));
            }
        });
        Self { late }
    }

    /// The 99th percentile of the delays since the last call.
    pub(crate) fn lateness(&self) -> Lateness {
        let late = std::mem::take(&mut *self.late.lock());
        Lateness(quantile(late.into_iter(), 0.99))
    }
}

/// How late a machine was.
#[derive(Clone, Copy)]
pub(crate) struct Lateness(pub(crate) Duration);

impl Lateness {
    /// Whether other work delayed the machine so much that times cannot be judged.
    pub(crate) fn is_busy(self) -> bool {
        self.0 > BUSY
    }
}
