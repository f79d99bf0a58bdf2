//! Redis's clock between two answers to `TIME`, for programs that need it at every renewal: to ask
//! first would double their round trips.

use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::ConnectionLike;
use tokio::time::Instant;

use super::{errors::broker_error, values::milliseconds};
use crate::BrokerError;

/// How long an answer is used. Short, because another server, with another clock, may take the place
/// of this one.
const USED_FOR: Duration = Duration::from_secs(2);

/// The last answer to `TIME` in milliseconds, and when it came.
#[derive(Default)]
pub(super) struct RedisClock(Mutex<Option<(u64, Instant)>>);

impl RedisClock {
    /// Keeps an answer.
    pub(super) fn set(&self, milliseconds: u64) {
        *self.0.lock() = Some((milliseconds, Instant::now()));
    }

    /// Redis's clock in milliseconds, which is asked if necessary.
    pub(super) async fn read(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> Result<u64, BrokerError> {
        if let Some(now) = self.now() {
            return Ok(now);
        }
        redis::cmd("TIME").query_async(connection).await.map(milliseconds).map_err(broker_error)
    }

    fn now(&self) -> Option<u64> {
        let (milliseconds, at) = (*self.0.lock())?;
        let since = at.elapsed();
        (since < USED_FOR).then(|| milliseconds + u64::try_from(since.as_millis()).unwrap_or(0))
    }

    /// Forgets the answer, because the server may have changed.
    pub(super) fn forget(&self) {
        *self.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_goes_on_for_two_seconds_after_an_answer() {
        let clock = RedisClock::default();
        assert_eq!(clock.now(), None);
        clock.set(1000);
        advance(Duration::from_millis(1999)).await;
        assert_eq!(clock.now(), Some(2999));
        advance(Duration::from_millis(1)).await;
        assert_eq!(clock.now(), None);
        clock.set(5000);
        clock.forget();
        assert_eq!(clock.now(), None);
    }
}
