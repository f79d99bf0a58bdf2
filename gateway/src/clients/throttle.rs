//! Limits the rate of failed authentications of each address.

use std::{collections::HashMap, net::IpAddr};

use tokio::time::{Duration, Instant};

/// The time over which an address may use up its rate at once.
const BURST: Duration = Duration::from_secs(10);

/// The addresses with recent failures.
#[derive(Debug)]
pub(super) struct Throttle {
    /// The time that one failure costs; zero for no limit.
    cost: Duration,
    /// Maximum number of addresses with an entry of their own; all other addresses share one.
    most: usize,
    /// When the failures of an address are paid off.
    paid_off: HashMap<Option<IpAddr>, Instant>,
}

impl Throttle {
    /// Allows `rate` failures per second and address; 0 for no limit.
    pub(super) fn new(rate: f64, most: usize) -> Self {
        let cost = if rate > 0.0 {
            BURST.min(Duration::from_secs_f64(1.0 / rate))
        } else {
            Duration::ZERO
        };
        Self { cost, most, paid_off: HashMap::new() }
    }

    /// Counts a failure of the address.
    ///
    /// # Errors
    ///
    /// The address has failed too often. Returns the time until its next failure is within the rate.
    pub(super) fn fail(&mut self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        if let Some(wait) = self.wait(address, now) {
            return Err(wait);
        }
        if self.cost.is_zero() {
            return Ok(());
        }
        if self.paid_off.len() >= self.most {
            self.paid_off.retain(|_, paid_off| *paid_off > now);
        }
        let key = self.key(address);
        let paid_off = self.paid_off.entry(key).or_insert(now);
        *paid_off = now.max(*paid_off) + self.cost;
        Ok(())
    }

    /// The time until the next failure of the address is within the rate; `None` if it is now.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let paid_off = self.paid_off.get(&self.key(address))?;
        let ahead = paid_off.saturating_duration_since(now) + self.cost;
        (ahead > BURST).then(|| ahead.saturating_sub(BURST))
    }

    /// The entry of an address: its own, or the shared one if the table is full.
    fn key(&self, address: IpAddr) -> Option<IpAddr> {
        let own = Some(address);
        own.filter(|_| self.paid_off.len() < self.most || self.paid_off.contains_key(&own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// The number of failures within the rate.
    fn failures(throttle: &mut Throttle, of: u8, now: Instant) -> usize {
        (0..1000).filter(|_| throttle.fail(address(of), now).is_ok()).count()
    }

    #[test]
    fn an_address_may_fail_at_its_rate_and_ten_seconds_ahead() {
        let now = Instant::now();
        let mut throttle = Throttle::new(5.0, 10);
        assert_eq!(failures(&mut throttle, 1, now), 50);
        assert_eq!(throttle.fail(address(1), now), Err(Duration::from_millis(200)));
        assert_eq!(throttle.wait(address(1), now), Some(Duration::from_millis(200)));
        assert_eq!(throttle.wait(address(2), now), None);
        assert_eq!(failures(&mut throttle, 1, now + Duration::from_secs(1)), 5);
        assert_eq!(failures(&mut throttle, 1, now + Duration::from_mins(1)), 50);
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let now = Instant::now();
        let mut throttle = Throttle::new(0.0, 10);
        assert_eq!(failures(&mut throttle, 1, now), 1000);
        assert!(throttle.paid_off.is_empty());
    }

    #[test]
    fn addresses_beyond_the_most_share_one_entry_until_others_are_paid_off() {
        let now = Instant::now();
        let mut throttle = Throttle::new(1.0, 2);
        for of in 1..=2 {
            assert_eq!(failures(&mut throttle, of, now), 10);
        }
        assert_eq!(failures(&mut throttle, 3, now), 10);
        assert_eq!(failures(&mut throttle, 4, now), 0, "shares the entry of 3");
        assert!(throttle.paid_off.len() <= 3);
        let later = now + Duration::from_mins(1);
        assert_eq!(failures(&mut throttle, 4, later), 10);
        assert_eq!(throttle.paid_off.len(), 1);
    }
}
