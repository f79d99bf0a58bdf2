//! Limits how often a log line is written.

use std::time::Duration;

use tokio::time::Instant;

/// Admits a log line at most once per period, and counts the lines in between.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    logged: Option<Instant>,
    omitted: u64,
}

impl Throttle {
    /// A throttle that admits one line per `every`.
    pub const fn new(every: Duration) -> Self {
        Self { every, logged: None, omitted: 0 }
    }

    /// Whether to write a line now: the number of lines that were left out since the last one;
    /// `None` to leave out this line, too.
    pub fn admit(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.logged.is_some_and(|logged| now - logged < self.every) {
            self.omitted += 1;
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.omitted))
    }

    /// Admits the next line, whenever it comes.
    pub fn reset(&mut self) {
        self.logged = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_admitted_once_per_period_with_the_number_of_lines_left_out() {
        let mut throttle = Throttle::new(Duration::from_secs(10));
        assert_eq!(throttle.admit(), Some(0));
        assert_eq!((throttle.admit(), throttle.admit()), (None, None));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((throttle.admit(), throttle.admit()), (Some(2), None));
        throttle.reset();
        assert_eq!(throttle.admit(), Some(1));
    }
}
