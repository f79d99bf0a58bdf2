//! What each client has taken of its share.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

/// Clients that have nothing in flight are forgotten no more often than this.
const SWEEP: Duration = Duration::from_secs(1);

/// Whose share a request takes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// The one that shows a key of this name.
    Key(Arc<str>),
    /// The one at this address.
    Address(IpAddr),
    /// All for whom there was no place of their own.
    Others,
}

/// What one client may have; 0 for as much as it likes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// Requests a second, a second's worth of them at once.
    pub(super) rate: f64,
    /// Requests in flight.
    pub(super) in_flight: usize,
}

impl Allowance {
    pub(super) fn is_unlimited(self) -> bool {
        self.rate <= 0.0 && self.in_flight == 0
    }
}

/// How a client asks for more than its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Too often: how long until it may again.
    Rate(Duration),
    /// Too much at a time.
    InFlight,
}

/// What all clients have taken.
#[derive(Debug)]
pub(super) struct Fairness {
    clients: HashMap<Who, Taken>,
    most: usize,
    swept: Instant,
}

/// What one client has taken.
///
/// Its bucket of tokens is kept as the time at which it will be full again.
#[derive(Debug)]
struct Taken {
    full: Instant,
    in_flight: usize,
}

impl Fairness {
    /// Tells at most so many clients apart.
    pub(super) fn new(most: usize, now: Instant) -> Self {
        Self { clients: HashMap::new(), most, swept: now }
    }

    /// Takes one request from a client's share. Returns whose share it was, to be told to
    /// [`leave`](Self::leave).
    pub(super) fn admit(
        &mut self,
        who: &Who,
        allowance: Allowance,
        now: Instant,
    ) -> Result<Who, Excess> {
        let who = if self.has_place(who, now) { who.clone() } else { Who::Others };
        let taken =
            self.clients.entry(who.clone()).or_insert_with(|| Taken { full: now, in_flight: 0 });
        if allowance.in_flight > 0 && taken.in_flight >= allowance.in_flight {
            return Err(Excess::InFlight);
        }
        if allowance.rate > 0.0 {
            let token = Duration::from_secs_f64((1.0 / allowance.rate).min(86_400.0));
            let burst = Duration::from_secs(1).max(token);
            let ahead = taken.full.saturating_duration_since(now) + token;
            if ahead > burst {
                return Err(Excess::Rate(ahead.saturating_sub(burst)));
            }
            taken.full = now + ahead;
        }
        taken.in_flight += 1;
        Ok(who)
    }

    /// One of its requests has ended.
    pub(super) fn leave(&mut self, who: &Who) {
        if let Some(taken) = self.clients.get_mut(who) {
            taken.in_flight = taken.in_flight.saturating_sub(1);
        }
    }

    /// Whether a client is known, or can be. Those whose share is whole again need not be.
    fn has_place(&mut self, who: &Who, now: Instant) -> bool {
        if self.clients.len() >= self.most && now >= self.swept + SWEEP {
            self.clients.retain(|_, taken| taken.in_flight > 0 || taken.full > now);
            self.swept = now;
        }
        self.clients.len() < self.most || self.clients.contains_key(who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn who(last: u8) -> Who {
        Who::Address([10, 0, 0, last].into())
    }

    fn rate(rate: f64) -> Allowance {
        Allowance { rate, in_flight: 0 }
    }

    /// How many of 1,000 requests at once get in.
    fn burst(fairness: &mut Fairness, who: &Who, allowance: Allowance, now: Instant) -> usize {
        (0..1000).filter(|_| fairness.admit(who, allowance, now).is_ok()).count()
    }

    #[test]
    fn a_second_of_requests_may_come_at_once_and_then_one_each_token() {
        let now = Instant::now();
        let mut fairness = Fairness::new(10, now);
        assert_eq!(burst(&mut fairness, &who(1), rate(10.0), now), 10);
        let excess = fairness.admit(&who(1), rate(10.0), now).unwrap_err();
        assert_eq!(excess, Excess::Rate(SECOND / 10));
        assert_eq!(burst(&mut fairness, &who(1), rate(10.0), now + SECOND / 10), 1);
        assert_eq!(burst(&mut fairness, &who(1), rate(10.0), now + 100 * SECOND), 10);
        assert_eq!(burst(&mut fairness, &who(2), rate(10.0), now), 10, "a share of its own");
    }

    #[test]
    fn less_than_one_a_second_is_one_at_a_time() {
        let now = Instant::now();
        let mut fairness = Fairness::new(10, now);
        assert_eq!(burst(&mut fairness, &who(1), rate(0.25), now), 1);
        let excess = fairness.admit(&who(1), rate(0.25), now + SECOND).unwrap_err();
        assert_eq!(excess, Excess::Rate(3 * SECOND));
        assert_eq!(burst(&mut fairness, &who(1), rate(0.25), now + 4 * SECOND), 1);
    }

    #[test]
    fn what_is_in_flight_is_bounded_until_it_ends_and_costs_no_token_when_refused() {
        let now = Instant::now();
        let mut fairness = Fairness::new(10, now);
        let allowance = Allowance { rate: 3.0, in_flight: 2 };
        assert_eq!(burst(&mut fairness, &who(1), allowance, now), 2);
        assert_eq!(fairness.admit(&who(1), allowance, now), Err(Excess::InFlight));
        fairness.leave(&who(1));
        assert_eq!(fairness.admit(&who(1), allowance, now), Ok(who(1)));
        fairness.leave(&who(1));
        assert!(matches!(fairness.admit(&who(1), allowance, now), Err(Excess::Rate(_))));
    }

    #[test]
    fn a_client_gets_what_it_may_and_no_more_however_it_spreads_its_requests() {
        let now = Instant::now();
        let mut fairness = Fairness::new(10, now);
        let attempts = (0..10_000_u32).map(|n| now + SECOND * n / 1000);
        let admitted =
            attempts.filter(|at| fairness.admit(&who(1), rate(50.0), *at).is_ok()).count();
        assert!((549..=551).contains(&admitted), "10 s at 50/s and a burst: {admitted}");
    }

    #[test]
    fn clients_beyond_the_most_share_one_place_until_others_are_forgotten() {
        let now = Instant::now();
        let mut fairness = Fairness::new(2, now);
        let one = rate(1.0);
        assert_eq!(fairness.admit(&who(1), one, now), Ok(who(1)));
        assert_eq!(fairness.admit(&who(2), one, now), Ok(who(2)));
        assert_eq!(fairness.admit(&who(3), one, now), Ok(Who::Others));
        assert!(matches!(fairness.admit(&who(4), one, now), Err(Excess::Rate(_))));
        assert!(matches!(fairness.admit(&who(1), one, now), Err(Excess::Rate(_))));
        fairness.leave(&who(1));
        fairness.leave(&Who::Others);
        let later = now + SECOND;
        assert_eq!(fairness.admit(&who(4), one, later), Ok(who(4)), "1 is forgotten");
        assert_eq!(fairness.clients.len(), 2, "2 is in flight");
    }
}
