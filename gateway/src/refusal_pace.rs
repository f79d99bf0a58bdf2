//! Spreads the refusals of large requests over time.
//!
//! A client that ignores `Retry-After` sends the same body again as soon as it is refused. Receiving the
//! bodies of a few such clients takes most of the processors' time, which workers on the same machine
//! need. Refusals therefore take turns, as if one after the other read its body at a fixed speed.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// The speed in bytes per second: small requests never wait for their turn.
const SPEED: f64 = 64.0 * 1024.0 * 1024.0;
/// Maximum wait of a refusal. A refusal must stay quick, so that the client can try elsewhere.
const LONGEST: Duration = Duration::from_millis(25);
/// Resolution of timers: shorter waits are left out.
const TICK: Duration = Duration::from_millis(1);

/// The turns of refusals at one gateway.
#[derive(Debug, Default)]
pub(crate) struct RefusalPace {
    /// When the turn of the last refusal ends.
    free_at: Mutex<Option<Instant>>,
}

impl RefusalPace {
    /// Waits for the turn of a refusal, whose request has `bytes` bytes.
    pub(crate) async fn wait(&self, bytes: usize) {
        let now = Instant::now();
        let turn = self.turn(bytes, now);
        if turn > now + TICK {
            sleep_until(turn).await;
        }
    }

    /// When the turn of a refusal begins that is decided `now`.
    fn turn(&self, bytes: usize, now: Instant) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "the size of a body")]
        let lasts = Duration::from_secs_f64(bytes as f64 / SPEED);
        let mut free_at = self.free_at.lock();
        let begins = free_at.map_or(now, |free| free.clamp(now, now + LONGEST));
        *free_at = Some(begins + lasts);
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const MS: Duration = Duration::from_millis(1);

    /// How often clients are refused in a second that send `bytes` again at once.
    fn refused(clients: usize, bytes: usize) -> usize {
        let (pace, start) = (RefusalPace::default(), Instant::now());
        let mut sends = vec![start; clients];
        let mut refused = 0;
        while let Some(next) = sends.iter_mut().min().filter(|next| **next < start + MS * 1000) {
            *next = pace.turn(bytes, *next) + MS / 10;
            refused += 1;
        }
        refused
    }

    #[test]
    fn a_refusal_now_and_then_does_not_wait() {
        let (pace, start) = (RefusalPace::default(), Instant::now());
        for seconds in 0..3 {
            let now = start + MS * 1000 * seconds;
            assert_eq!(pace.turn(16 * MIB, now), now);
        }
    }

    #[test]
    fn large_requests_that_return_at_once_take_turns() {
        // One body of 790 KB takes 12 ms.
        assert!((80..=90).contains(&refused(1, 790_000)), "{}", refused(1, 790_000));
        assert!((80..=90).contains(&refused(2, 790_000)), "{}", refused(2, 790_000));
        // Each of many clients waits for 25 ms.
        assert!((150..=165).contains(&refused(4, 790_000)), "{}", refused(4, 790_000));
    }

    #[test]
    fn small_requests_do_not_wait() {
        assert_eq!(refused(1, 1000), 10_000, "as many as one client can send");
        assert!(refused(8, 1000) >= 60_000, "64 MiB per second");
    }
}
