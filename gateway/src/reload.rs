//! Files that are read again while the gateway runs.

use std::fmt::Display;

use prometheus::IntCounter;
use tokio::{
    task::spawn_blocking,
    time::{Duration, interval},
};
use tracing::error;

/// Interval between reads of a file.
const INTERVAL: Duration = Duration::from_secs(5);

/// A file that is read every [`INTERVAL`]. While a file cannot be used, its previous content stays
/// valid, and each failed read is counted.
#[derive(Debug)]
pub(crate) struct Reloaded {
    /// The content of the file, for the log.
    what: &'static str,
    failures: IntCounter,
    failing: bool,
}

impl Reloaded {
    /// A file whose content is called `what` in the log; each failed read increments `failures`.
    pub(crate) fn new(what: &'static str, failures: IntCounter) -> Self {
        Self { what, failures, failing: false }
    }

    /// Task: reads the file again and again, and passes each content to `adopt`.
    pub(crate) async fn follow<T, E>(
        mut self,
        read: impl Fn() -> Result<T, E> + Clone + Send + 'static,
        adopt: impl Fn(T),
    ) where
        T: Send + 'static,
        E: Display + Send + 'static,
    {
        let mut ticks = interval(INTERVAL);
        loop {
            ticks.tick().await;
            // The read fails to run only while the process ends.
            let Ok(outcome) = spawn_blocking(read.clone()).await else { continue };
            if let Some(content) = self.judge(outcome) {
                adopt(content);
            }
        }
    }

    /// The content, if the read succeeded. Logs the first of several failures in a row.
    pub(crate) fn judge<T, E: Display>(&mut self, outcome: Result<T, E>) -> Option<T> {
        match outcome {
            Ok(content) => {
                self.failing = false;
                Some(content)
            }
            Err(error) => {
                self.failures.inc();
                if !self.failing {
                    error!(%error, "failed to reload {}, keeping the previous ones", self.what);
                }
                self.failing = true;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failed_read_is_counted_and_yields_no_content() {
        let failures = IntCounter::new("failures", "failures").unwrap();
        let mut reloaded = Reloaded::new("keys", failures.clone());
        assert_eq!(reloaded.judge::<_, &str>(Ok(1)), Some(1));
        for count in 1..=3 {
            assert_eq!(reloaded.judge::<u8, _>(Err("malformed")), None);
            assert_eq!(failures.get(), count);
        }
        assert_eq!(reloaded.judge::<_, &str>(Ok(2)), Some(2));
    }
}
