//! Limits how often a line is logged that callers can cause.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The shortest time between two log lines of the same cause.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides whether a line is logged: at most once in ten seconds.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Since>);

#[derive(Debug, Default)]
struct Since {
    logged: Option<Instant>,
    events: u64,
}

impl LogThrottle {
    /// Counts an event. If it is to be logged, returns the number of events since the last line, this
    /// one included.
    pub fn count(&self) -> Option<u64> {
        let mut since = self.0.lock();
        since.events += 1;
        if since.logged.is_some_and(|logged| logged.elapsed() < INTERVAL) {
            return None;
        }
        let events = std::mem::take(&mut since.events);
        since.logged = Some(Instant::now());
        Some(events)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_logged_once_in_ten_seconds_with_the_count_of_events() {
        let throttle = LogThrottle::default();
        assert_eq!(throttle.count(), Some(1));
        for _ in 0..5 {
            assert_eq!(throttle.count(), None);
        }
        advance(INTERVAL / 2).await;
        assert_eq!(throttle.count(), None);
        advance(INTERVAL / 2).await;
        assert_eq!(throttle.count(), Some(7));
        assert_eq!(throttle.count(), None);
    }
}
