//! How long it takes to join the inputs of a batch ahead, by their bytes.

use std::{sync::Arc, time::Duration};

use batchfleet_policy::TransferTime;
use parking_lot::Mutex;

/// Inputs of this many bytes are worth another thread. To copy fewer takes the engine a few
/// microseconds.
pub(super) const WORTH_JOINING: u64 = 64 << 10;

/// The times of joins on another thread. All clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct JoinTimes(Arc<Mutex<TransferTime>>);

impl JoinTimes {
    /// Adds a join of `bytes` bytes.
    pub(super) fn observe(&self, bytes: u64, took: Duration) {
        self.0.lock().observe(bytes, took);
    }

    /// The time within which nearly all joins of `bytes` bytes end. Zero if the engine joins so few
    /// bytes itself, and before the first join.
    pub(super) fn within(&self, bytes: u64) -> Duration {
        if bytes < WORTH_JOINING {
            return Duration::ZERO;
        }
        self.0.lock().within(bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_joins_on_another_thread_take_time() {
        let joins = JoinTimes::default();
        assert_eq!(joins.within(WORTH_JOINING), Duration::ZERO);
        joins.clone().observe(WORTH_JOINING, Duration::from_micros(50));
        assert_eq!(joins.within(WORTH_JOINING), Duration::from_micros(50));
        assert_eq!(joins.within(WORTH_JOINING - 1), Duration::ZERO);
    }
}
