//! The share of time in which an engine runs.

use std::time::Duration;

use tokio::time::Instant;

use crate::watchdog::RunClock;

/// Computes the share of the engine of one instance from time to time.
#[derive(Debug)]
pub(crate) struct BusyShare {
    clock: RunClock,
    instances: u32,
    looked: Instant,
    /// The time of all runs at the last look.
    busy: Duration,
    /// The share at the last look.
    share: f64,
}

impl BusyShare {
    /// Starts with a share of 0 for one of `instances` instances.
    pub(crate) fn new(clock: RunClock, instances: u32) -> Self {
        let (looked, busy) = (Instant::now(), clock.busy_in_total());
        Self { clock, instances: instances.max(1), looked, busy, share: 0.0 }
    }

    /// By how much the average over all instances changes because of this one, since the last look.
    pub(crate) fn change(&mut self) -> f64 {
        let (now, busy) = (Instant::now(), self.clock.busy_in_total());
        let passed = now - self.looked;
        if passed.is_zero() {
            return 0.0;
        }
        let share = busy.saturating_sub(self.busy).as_secs_f64() / passed.as_secs_f64();
        let change = share - self.share;
        (self.looked, self.busy, self.share) = (now, busy, share);
        change / f64::from(self.instances)
    }

    /// By how much the average over all instances changes because this one ends.
    pub(crate) fn end(&self) -> f64 {
        -self.share / f64::from(self.instances)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[tokio::test(start_paused = true)]
    async fn the_share_is_that_of_the_time_since_the_last_look() {
        let clock = RunClock::default();
        let mut share = BusyShare::new(clock.clone(), 1);
        assert!(close(share.change(), 0.0), "no time has passed");
        let running = clock.begin();
        sleep(Duration::from_millis(300)).await;
        drop(running);
        sleep(Duration::from_millis(700)).await;
        assert!(close(share.change(), 0.3));
        let _running = clock.begin();
        sleep(Duration::from_secs(1)).await;
        assert!(close(share.change(), 0.7), "a run in progress counts");
    }

    #[tokio::test(start_paused = true)]
    async fn instances_add_up_to_their_average() {
        let clocks = [RunClock::default(), RunClock::default()];
        let mut shares = clocks.clone().map(|clock| BusyShare::new(clock, 2));
        let _running = clocks[0].begin();
        sleep(Duration::from_secs(1)).await;
        let gauge: f64 = shares.iter_mut().map(BusyShare::change).sum();
        assert!(close(gauge, 0.5));
        let _other = clocks[1].begin();
        sleep(Duration::from_secs(1)).await;
        let change: f64 = shares.iter_mut().map(BusyShare::change).sum();
        assert!(close(gauge + change, 1.0));
        assert!(close(shares[0].end(), -0.5), "the other instance goes on");
    }
}
