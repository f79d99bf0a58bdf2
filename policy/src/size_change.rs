//! σ: the time that a batch takes longer if the batch before had another size.
//!
//! Some engines prepare each size anew: cuDNN plans its convolutions again whenever the number of rows
//! changes, which takes 5 to 53 ms according to public reports. A worker that runs what waits changes
//! the size with most batches.

use std::time::Duration;

use crate::CostModel;

/// If σ is more than this share of L(N), all batches run at one size.
const LARGE: f64 = 0.25;
/// At least this share of a batch's time is not due to the change of size.
const LEAST: f64 = 0.1;

/// What a change of size costs, and the size that is kept to avoid it.
///
/// A smaller batch is padded to the size of the batch before, until the padding has cost as much as a
/// change. This is the rule of ski rental: it costs at most twice as much as the best choice in
/// hindsight (Karlin et al., "Competitive snoopy caching", 1988).
#[derive(Clone, Copy, Debug, Default)]
pub struct SizeChange {
    /// σ in seconds.
    takes: f64,
    /// The size of the batch before; 0 for none.
    size: u32,
    /// What padding to this size has cost, in seconds.
    wasted: f64,
    /// Rows and length of the batch that ran before.
    ran: Option<(u32, u64)>,
}

impl SizeChange {
    /// A change of size takes this time.
    pub fn new(takes: Duration) -> Self {
        Self { takes: takes.as_secs_f64(), ..Self::default() }
    }

    /// Returns σ.
    pub fn takes(&self) -> Duration {
        Duration::from_secs_f64(self.takes)
    }

    /// Returns whether all batches should run at one size, N = `n`.
    pub fn needs_one_size(&self, cost: &CostModel, n: u32) -> bool {
        self.takes > LARGE * cost.seconds(n)
    }

    /// Returns the size at which to run a batch of `rows` rows, at most `most` if possible.
    pub fn size(&mut self, cost: &CostModel, rows: u32, most: u32) -> u32 {
        let needed = cost.padded(rows);
        if self.takes == 0.0 || self.size < needed || self.size > most {
            (self.size, self.wasted) = (needed, 0.0);
            return needed;
        }
        self.wasted += cost.seconds(self.size) - cost.seconds(needed);
        if self.wasted >= self.takes {
            (self.size, self.wasted) = (needed, 0.0);
        }
        self.size
    }

    /// Returns the time of a batch without the change of size. The batch had this size and ran for
    /// `took`.
    pub fn without(&mut self, rows: u32, length: u64, took: Duration) -> Duration {
        let has_changed = self.ran.replace((rows, length)) != Some((rows, length));
        if !has_changed {
            return took;
        }
        took.saturating_sub(self.takes()).max(took.mul_f64(LEAST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// L(b) = 10 + b milliseconds.
    fn cost() -> CostModel {
        CostModel::from_profile(&[(1, ms(11)), (64, ms(74))]).unwrap()
    }

    #[test]
    fn a_size_is_kept_until_padding_has_cost_as_much_as_a_change() {
        let mut change = SizeChange::new(ms(20));
        let sizes: Vec<u32> =
            [8, 2, 2, 2, 2, 2, 9, 64].map(|rows| change.size(&cost(), rows, 64)).into();
        // Each batch of two rows wastes 6 ms at eight.
        assert_eq!(sizes, [8, 8, 8, 8, 2, 2, 9, 64]);
        assert_eq!(change.size(&cost(), 3, 32), 3, "64 rows are too many now");
        let mut free = SizeChange::default();
        assert_eq!([8, 2, 5].map(|rows| free.size(&cost(), rows, 64)), [8, 2, 5]);
    }

    #[test]
    fn only_a_large_cost_needs_one_size() {
        assert!(!SizeChange::default().needs_one_size(&cost(), 64));
        assert!(!SizeChange::new(ms(18)).needs_one_size(&cost(), 64));
        assert!(SizeChange::new(ms(19)).needs_one_size(&cost(), 64));
    }

    #[test]
    fn the_time_of_a_batch_excludes_the_change_of_its_size() {
        let mut change = SizeChange::new(ms(53));
        let times = [(8, 1, 71), (8, 1, 18), (8, 2, 71), (4, 2, 67), (1, 2, 11)];
        let without: Vec<Duration> = times
            .into_iter()
            .map(|(rows, length, took)| change.without(rows, length, ms(took)))
            .collect();
        let tenth = Duration::from_micros(1100);
        assert_eq!(without, [ms(18), ms(18), ms(18), ms(14), tenth]);
    }
}
