//! The number of rows that fit into device memory, learned from batches that ran out of memory.
//!
//! A batch that runs out of memory immediately lowers the ceiling to half of the batch's rows. The
//! ceiling rises by one row after [`PATIENCE`] full batches, because other processes may have freed
//! memory. A rise that fails is undone, and the next rise takes twice as many batches.

use crate::limit::whole_units;

/// Full batches before the ceiling rises by one row: the initial and the largest number.
const PATIENCE: u32 = 50;
const LONGEST_PATIENCE: u32 = 3200;

/// The maximum number of rows per batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ceiling {
    rows: u32,
    /// The largest ceiling at which a full batch has succeeded since the last fall; 0 for none.
    proven: u32,
    /// Full batches that have succeeded since the ceiling last moved.
    filled: u32,
    patience: u32,
}

impl Default for Ceiling {
    /// No limit until memory has run out.
    fn default() -> Self {
        Self { rows: u32::MAX, proven: 0, filled: 0, patience: PATIENCE }
    }
}

impl Ceiling {
    /// The current maximum of rows per batch; at least 1.
    pub(crate) const fn rows(self) -> u32 {
        self.rows
    }

    /// The same, counted in units of which there are `per_unit` times as many.
    pub(crate) fn scaled(self, per_unit: f64) -> Self {
        if self.rows == u32::MAX {
            return self;
        }
        let scaled = |rows: u32| whole_units(f64::from(rows) * per_unit);
        Self { rows: scaled(self.rows).max(1), proven: scaled(self.proven), ..self }
    }

    /// Records a successful batch of `rows` rows.
    pub(crate) fn ran(&mut self, rows: u32) {
        if rows < self.rows {
            return;
        }
        self.proven = self.rows;
        self.filled += 1;
        if self.filled >= self.patience {
            self.rows = self.rows.saturating_add(1);
            self.filled = 0;
        }
    }

    /// Records a batch of `rows` rows that ran out of memory.
    pub(crate) fn out_of_memory(&mut self, rows: u32) {
        self.filled = 0;
        if rows == self.rows && rows == self.proven + 1 && rows > 1 {
            self.rows = self.proven;
            self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
        } else {
            self.rows = self.rows.min(rows / 2).max(1);
            self.proven = 0;
            self.patience = PATIENCE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs full batches of at most 64 rows on a device with memory for `room` rows; returns the
    /// sizes that failed.
    fn run(ceiling: &mut Ceiling, room: u32, batches: u32) -> Vec<u32> {
        let mut failed = Vec::new();
        for _ in 0..batches {
            let rows = ceiling.rows().min(64);
            if rows > room {
                ceiling.out_of_memory(rows);
                failed.push(rows);
            } else {
                ceiling.ran(rows);
            }
        }
        failed
    }

    #[test]
    fn falls_by_halves_until_the_batch_fits() {
        let mut ceiling = Ceiling::default();
        assert_eq!(run(&mut ceiling, 20, 3), [64, 32]);
        assert_eq!(ceiling.rows(), 16);
    }

    #[test]
    fn rises_row_by_row_and_retries_failed_sizes_ever_more_rarely() {
        let mut ceiling = Ceiling::default();
        run(&mut ceiling, 20, 10_000);
        assert_eq!(ceiling.rows(), 20);
        assert!(run(&mut ceiling, 20, 10_000).len() <= 4, "{ceiling:?}");
        assert!(ceiling.rows() >= 20, "{ceiling:?}");
    }

    #[test]
    fn returns_to_full_batches_when_memory_is_free_again() {
        let mut ceiling = Ceiling::default();
        run(&mut ceiling, 20, 100);
        run(&mut ceiling, 64, 50 * PATIENCE);
        assert!(ceiling.rows() >= 64, "{ceiling:?}");
    }

    #[test]
    fn small_batches_prove_nothing_and_two_halves_that_fail_count_once() {
        let mut ceiling = Ceiling::default();
        for rows in [64, 32, 32] {
            ceiling.out_of_memory(rows);
        }
        (0..1000).for_each(|_| ceiling.ran(8));
        assert_eq!(ceiling.rows(), 16);
    }

    #[test]
    fn the_limit_stays_the_same_in_other_units() {
        let mut ceiling = Ceiling::default();
        assert_eq!(ceiling.scaled(3.0).rows(), u32::MAX);
        run(&mut ceiling, 20, 3);
        assert_eq!((ceiling.scaled(2.5).rows(), ceiling.scaled(0.01).rows()), (40, 1));
    }

    #[test]
    fn one_row_is_always_allowed() {
        let mut ceiling = Ceiling::default();
        (0..3).for_each(|_| ceiling.out_of_memory(1));
        assert_eq!(ceiling.rows(), 1);
    }
}
