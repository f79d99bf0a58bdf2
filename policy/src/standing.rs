//! The number of rows in the system, from the times that they spend there.

use std::time::Duration;

use crate::ArrivalRate;

/// Time constant of the average, in seconds. A decision about throughput follows a change of the
/// load, not single batches.
const SMOOTHING: f64 = 2.0;

/// Rows that wait or run, by Little's law: the rows that arrive per second times the seconds that
/// each spends in the system.
///
/// The sum of all seconds spent grows by the number of rows per second, so that one average of one
/// rate suffices. Neither the length of the queue nor the age of its head is needed.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Microseconds that all rows so far have spent.
    spent: u64,
    rows: ArrivalRate,
}

impl Default for Standing {
    fn default() -> Self {
        Self { spent: 0, rows: ArrivalRate::over(SMOOTHING) }
    }
}

impl Standing {
    /// Adds `rows` rows, each of which spends `time` from its arrival to its answer.
    pub fn add(&mut self, rows: u32, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.spent = self.spent.saturating_add(micros.saturating_mul(rows.into()));
    }

    /// Ends an interval at `at`, by any monotonic clock.
    pub fn observe(&mut self, at: Duration) {
        self.rows.observe(at, self.spent);
    }

    /// Returns the rows in the system; 0 while unknown.
    pub fn rows(&self) -> f64 {
        self.rows.per_second().unwrap_or_default() / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_clients_are_a_hundred_rows_whatever_the_size_of_batches() {
        // L(b) = 90 + 10b milliseconds. 100 clients wait for 100 / rate seconds.
        for rows in [5_u32, 20, 50] {
            let batch = Duration::from_millis(u64::from(90 + 10 * rows));
            let wait = batch * 100 / rows;
            let mut standing = Standing::default();
            for batches in 0..40 {
                standing.observe(batch * batches);
                standing.add(rows, wait);
            }
            assert!((standing.rows() - 100.0).abs() < 1.0, "{rows}: {}", standing.rows());
        }
    }

    #[test]
    fn nothing_stands_in_an_idle_system() {
        let mut standing = Standing::default();
        assert!(standing.rows().abs() < f64::EPSILON);
        standing.observe(Duration::ZERO);
        standing.add(10, Duration::from_secs(1));
        standing.observe(Duration::from_secs(1));
        assert!(standing.rows() > 5.0);
        (2..20).for_each(|second| standing.observe(Duration::from_secs(second)));
        assert!(standing.rows() < 0.01, "{}", standing.rows());
    }
}
