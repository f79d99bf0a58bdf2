//! Tracks how much of its share each client has used.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

/// Minimum interval between removals of idle clients from memory.
const SWEEP: Duration = Duration::from_secs(1);

/// The client whose share a request uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ClientId {
    /// The client with an API key, a token or a certificate of this name.
    Name(Arc<str>),
    /// The client at this address.
    Address(IpAddr),
    /// All clients beyond the maximum number of shares, which have one share together.
    Others,
}

/// The limits of one client; 0 for no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// Requests per second; a burst of one second's requests is allowed.
    pub(super) rate: f64,
    /// Requests in flight.
    pub(super) in_flight: usize,
}

impl Allowance {
    pub(super) fn is_unlimited(self) -> bool {
        self.rate <= 0.0 && self.in_flight == 0
    }
}

/// The limit that a request exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Requests per second. Contains the time until the next request is admitted.
    Rate(Duration),
    /// Requests in flight.
    InFlight,
}

/// The used part of every client's share.
#[derive(Debug)]
pub(super) struct Fairness {
    clients: HashMap<ClientId, Used>,
    most: usize,
    swept: Instant,
}

/// The used part of one client's share.
#[derive(Debug)]
struct Used {
    /// When the client's token bucket will be full again.
    full: Instant,
    in_flight: usize,
}

impl Fairness {
    /// Keeps a share for each of at most `most` clients.
    pub(super) fn new(most: usize, now: Instant) -> Self {
        Self { clients: HashMap::new(), most, swept: now }
    }

    /// Admits one request. Returns the client whose share the request uses, to be passed to
    /// [`leave`](Self::leave).
    pub(super) fn admit(
        &mut self,
        id: &ClientId,
        allowance: Allowance,
        now: Instant,
    ) -> Result<ClientId, Excess> {
        let id = if self.has_share(id, now) { id.clone() } else { ClientId::Others };
        let used =
            self.clients.entry(id.clone()).or_insert_with(|| Used { full: now, in_flight: 0 });
        if allowance.in_flight > 0 && used.in_flight >= allowance.in_flight {
            return Err(Excess::InFlight);
        }
        if allowance.rate > 0.0 {
            let token = Duration::from_secs_f64((1.0 / allowance.rate).min(86_400.0));
            let burst = Duration::from_secs(1).max(token);
            let ahead = used.full.saturating_duration_since(now) + token;
            if ahead > burst {
                return Err(Excess::Rate(ahead.saturating_sub(burst)));
            }
            used.full = now + ahead;
        }
        used.in_flight += 1;
        Ok(id)
    }

    /// Records that one request of the client has ended.
    pub(super) fn leave(&mut self, id: &ClientId) {
        if let Some(used) = self.clients.get_mut(id) {
            used.in_flight = used.in_flight.saturating_sub(1);
        }
    }

    /// Whether the client has a share of its own or can get one. Idle clients lose their share if
    /// needed.
    fn has_share(&mut self, id: &ClientId, now: Instant) -> bool {
        if self.clients.len() >= self.most && now >= self.swept + SWEEP {
            self.clients.retain(|_, used| used.in_flight > 0 || used.full > now);
            self.swept = now;
        }
        self.clients.len() < self.most || self.clients.contains_key(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn client(last: u8) -> ClientId {
        ClientId::Address([10, 0, 0, last].into())
    }

    fn rate(rate: f64) -> Allowance {
        Allowance { rate, in_flight: 0 }
    }

    /// Sends 1,000 requests at the same time; returns the number of admitted requests.
    fn burst(fairness: &mut Fairness, id: &ClientId, allowance: Allowance, now: Instant) -> usize {
        (0..1000).filter(|_| fairness.admit(id, allowance, now).is_ok()).count()
    }

    #[test]
    fn a_burst_of_one_second_is_admitted_and_then_one_request_per_token() {
        let now = Instant::now();
        let mut fairness = Fairness::new(10, now);
        assert_eq!(burst(&mut fairness, &client(1), rate(10.0), now), 10);
        let excess = fairness.admit(&client(1), rate(10.0), now).unwrap_err();
        assert_eq!(excess, Excess::Rate(SECOND / 10));
        assert_eq!(burst(&mut fairness, &client(1), rate(10.0), now + SECOND / 10), 1);
        assert_eq!(burst(&mut fairness, &client(1), rate(10.0), now + 100 * SECOND), 10);
        assert_eq!(burst(&mut fairness, &client(2), rate(10.0), now), 10, "a share of its own");
    }

    #[test]
    fn a_rate_below_one_per_second_admits_one_request_at_a_time() {
        let now = Instant::now();
        let mut fairness = Fairness::new(10, now);
        assert_eq!(burst(&mut fairness, &client(1), rate(0.25), now), 1);
        let excess = fairness.admit(&client(1), rate(0.25), now + SECOND).unwrap_err();
        assert_eq!(excess, Excess::Rate(3 * SECOND));
        assert_eq!(burst(&mut fairness, &client(1), rate(0.25), now + 4 * SECOND), 1);
    }

    #[test]
    fn requests_in_flight_are_bounded_and_a_refused_one_costs_no_token() {
        let now = Instant::now();
        let mut fairness = Fairness::new(10, now);
        let allowance = Allowance { rate: 3.0, in_flight: 2 };
        assert_eq!(burst(&mut fairness, &client(1), allowance, now), 2);
        assert_eq!(fairness.admit(&client(1), allowance, now), Err(Excess::InFlight));
        fairness.leave(&client(1));
        assert_eq!(fairness.admit(&client(1), allowance, now), Ok(client(1)));
        fairness.leave(&client(1));
        assert!(matches!(fairness.admit(&client(1), allowance, now), Err(Excess::Rate(_))));
    }

    #[test]
    fn a_client_gets_exactly_its_rate_however_it_spreads_its_requests() {
        let now = Instant::now();
        let mut fairness = Fairness::new(10, now);
        let attempts = (0..10_000_u32).map(|n| now + SECOND * n / 1000);
        let admitted =
            attempts.filter(|at| fairness.admit(&client(1), rate(50.0), *at).is_ok()).count();
        assert!((549..=551).contains(&admitted), "10 s at 50/s and a burst: {admitted}");
    }

    #[test]
    fn clients_beyond_the_most_use_one_share_until_others_are_removed() {
        let now = Instant::now();
        let mut fairness = Fairness::new(2, now);
        let one = rate(1.0);
        assert_eq!(fairness.admit(&client(1), one, now), Ok(client(1)));
        assert_eq!(fairness.admit(&client(2), one, now), Ok(client(2)));
        assert_eq!(fairness.admit(&client(3), one, now), Ok(ClientId::Others));
        assert!(matches!(fairness.admit(&client(4), one, now), Err(Excess::Rate(_))));
        assert!(matches!(fairness.admit(&client(1), one, now), Err(Excess::Rate(_))));
        fairness.leave(&client(1));
        fairness.leave(&ClientId::Others);
        let later = now + SECOND;
        assert_eq!(fairness.admit(&client(4), one, later), Ok(client(4)), "1 was removed");
        assert_eq!(fairness.clients.len(), 2, "2 is in flight");
    }
}
