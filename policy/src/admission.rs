//! Whether a request can be answered in time, and if not, when to come back.
//!
//! A queue longer than its requests' deadlines only produces late answers: at 86 answers per second
//! and 30 s of patience, 2,580 requests is all a queue may hold (Little's law), and the 2,581st is
//! better told so at once.

use std::time::Duration;

use crate::CostModel;

/// Predictions err; a wait that is a fifth longer than predicted must still be in time.
const CAUTION: f64 = 1.2;
/// Time for everything that is not waiting or computing: at most this, and at most a tenth of what
/// remains.
const MARGIN: Duration = Duration::from_millis(50);
/// What a refused client is told at least and at most.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(30);

/// What a request would wait behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ahead {
    /// Jobs that would be claimed before it.
    pub jobs: f64,
    /// Jobs the fleet settles per second; infinite while nothing is known.
    pub rate: f64,
    /// How long the batch takes that it would travel in, L(N).
    pub batch: Duration,
}

impl Ahead {
    /// The predicted time from now until its answer.
    pub fn wait(&self) -> Duration {
        let seconds = if self.jobs > 0.0 { self.jobs / self.rate } else { 0.0 };
        // No worker at all, or far beyond any deadline.
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).saturating_add(self.batch)
    }
}

/// Whether to let a request in that may take `remaining` and may use `share` of it for waiting (1
/// for the most important class, less for those that are shed first).
///
/// # Errors
///
/// How long to stay away: until the queue, if nobody else came, would be short enough; between one
/// second and thirty. To be jittered, or all come back at once.
pub fn admit(ahead: &Ahead, remaining: Duration, share: f64) -> Result<(), Duration> {
    let usable = remaining.saturating_sub(MARGIN.min(remaining / 10)).mul_f64(share / CAUTION);
    let excess = ahead.wait().saturating_sub(usable);
    if excess.is_zero() { Ok(()) } else { Err(excess.clamp(SOONEST, LATEST)) }
}

/// How many of the waiting requests, oldest first, cannot be in time any more: to be refused before
/// a batch of up to `n` of the `waiting` rows is taken, not run in vain. `left` is the time that each
/// has until its deadline.
///
/// While the oldest has less left than its batch takes, L(min(n, waiting)), it is one. Refusing only
/// what has expired already is of no use under overload: every batch then is full of requests that
/// expire while it runs.
pub fn doomed(
    cost: &CostModel,
    n: u32,
    waiting: u32,
    left: impl IntoIterator<Item = Duration>,
) -> u32 {
    let mut refused = 0;
    let late = |left: &Duration| {
        let is_late = cost.latency(n.min(waiting.saturating_sub(refused))) > *left;
        refused += u32::from(is_late);
        is_late
    };
    left.into_iter().take_while(late).for_each(drop);
    refused
}

/// How many jobs a second the fleet settles, from looks at a growing count.
///
/// While jobs wait, the fleet works at its limit and the rate is measured (a moving average over
/// about a second). While none do, the rate of arrivals is all one sees, and what the workers say
/// they can do counts instead.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrainRate {
    last: Option<Look>,
    measured: Option<f64>,
    capacity: f64,
}

/// What was seen, and when.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// By any clock that only goes forward.
    pub at: Duration,
    /// Jobs settled since ever.
    pub settled: u64,
    /// Jobs waiting.
    pub waiting: u64,
    /// Jobs per second that the living workers say they can do; 0 if they do not say.
    pub capacity: f64,
}

impl Look {
    /// Time and jobs settled from this look to a later one; `None` if time stood still, or either
    /// went back.
    fn until(&self, later: &Self) -> Option<(Duration, f64)> {
        let time = later.at.checked_sub(self.at).filter(|time| !time.is_zero())?;
        let settled = later.settled.checked_sub(self.settled)?;
        #[expect(clippy::cast_precision_loss, reason = "a count of jobs between two looks")]
        Some((time, settled as f64))
    }
}

/// Time constant of the moving average, in seconds.
const SMOOTHING: f64 = 1.0;
/// A queue that stands still for less than this may have lost its workers, and that is for others
/// to find out: until then it is no slow queue.
const STANDSTILL: Duration = Duration::from_secs(4);

impl DrainRate {
    /// Takes in one look.
    pub fn observe(&mut self, look: Look) {
        self.capacity = look.capacity;
        let busy = look.waiting > 0 && self.last.is_some_and(|last| last.waiting > 0);
        let Some((time, settled)) = self.last.filter(|_| busy).and_then(|last| last.until(&look))
        else {
            // Idle, the first look, or a count that began anew: nothing measured holds.
            (self.last, self.measured) = (Some(look), None);
            return;
        };
        if settled == 0.0 && time < STANDSTILL {
            // A batch is on its way: whoever looks once it is settled counts from the last one on.
            return;
        }
        self.last = Some(look);
        let seconds = time.as_secs_f64();
        let rate = settled / seconds;
        let before =
            self.measured.unwrap_or(if look.capacity > 0.0 { look.capacity } else { rate });
        self.measured = Some(before + (rate - before) * (1.0 - (-seconds / SMOOTHING).exp()));
    }

    /// Jobs per second; infinite while nothing is known.
    pub fn rate(&self) -> f64 {
        match self.measured {
            Some(rate) => rate,
            None if self.capacity > 0.0 => self.capacity,
            None => f64::INFINITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(jobs: f64, rate: f64, batch_ms: u64) -> Ahead {
        Ahead { jobs, rate, batch: Duration::from_millis(batch_ms) }
    }

    const HALF_A_MINUTE: Duration = Duration::from_secs(30);

    #[test]
    fn lets_in_what_can_be_answered_in_time_and_no_more() {
        // 30 s less 50 ms, a fifth in reserve: 24.96 s, of which 372 ms are the batch.
        let most = (29.95 / 1.2 - 0.372) * 86.0;
        assert_eq!(admit(&ahead(most - 1.0, 86.0, 372), HALF_A_MINUTE, 1.0), Ok(()));
        assert!(admit(&ahead(most + 1.0, 86.0, 372), HALF_A_MINUTE, 1.0).is_err());
    }

    #[test]
    fn an_idle_fleet_takes_even_the_impatient() {
        assert_eq!(admit(&ahead(0.0, 86.0, 0), Duration::from_millis(5), 0.25), Ok(()));
        assert_eq!(admit(&ahead(5.0, f64::INFINITY, 0), Duration::from_millis(5), 0.25), Ok(()));
    }

    #[test]
    fn says_when_the_queue_will_be_short_enough() {
        // 5,000 waiting at 100 a second: 50 s; half a minute's request may wait 24.96 s.
        let away = admit(&ahead(5000.0, 100.0, 0), HALF_A_MINUTE, 1.0).unwrap_err();
        assert!((25.0..25.1).contains(&away.as_secs_f64()), "{away:?}");
        let soon = admit(&ahead(2500.0, 100.0, 0), HALF_A_MINUTE, 1.0).unwrap_err();
        assert_eq!(soon, SOONEST);
        assert_eq!(admit(&ahead(1.0, 0.0, 0), HALF_A_MINUTE, 1.0), Err(LATEST));
    }

    #[test]
    fn the_less_important_are_turned_away_first() {
        let queue = ahead(1000.0, 100.0, 0);
        let shares = [1.0, 0.75, 0.25].map(|share| admit(&queue, HALF_A_MINUTE, share).is_ok());
        assert_eq!(shares, [true, true, false]);
    }

    #[test]
    fn refuses_from_the_head_until_the_oldest_can_be_in_time() {
        let profile = [(1, Duration::from_millis(10)), (8, Duration::from_millis(24))];
        let cost = CostModel::from_profile(&profile).unwrap();
        let doomed = |n, left: &[u64]| {
            let waiting = u32::try_from(left.len()).unwrap();
            super::doomed(&cost, n, waiting, left.iter().map(|&left| Duration::from_millis(left)))
        };
        // Four rows take 16 ms, three 14 ms, two 12 ms, one 10 ms.
        assert_eq!(doomed(8, &[16, 16, 16, 16]), 0);
        assert_eq!(doomed(8, &[15, 14, 30, 1]), 1);
        assert_eq!(doomed(8, &[9, 9, 9, 9]), 4);
        // A batch of one is short enough for the oldest; the second will be looked at then.
        assert_eq!(doomed(1, &[11, 9]), 0);
        assert_eq!(doomed(8, &[]), 0);
    }

    fn look(at_ms: u64, settled: u64, waiting: u64) -> Look {
        Look { at: Duration::from_millis(at_ms), settled, waiting, capacity: 400.0 }
    }

    #[test]
    fn measures_while_jobs_wait_and_believes_the_workers_while_none_do() {
        let mut drain = DrainRate::default();
        assert!(drain.rate().is_infinite());
        // Ten a second come and go: that is not what the fleet could do.
        for tick in 0..10 {
            drain.observe(look(tick * 200, tick * 2, 0));
        }
        assert!((drain.rate() - 400.0).abs() < 1.0, "{}", drain.rate());
        // Now there is a queue, and half of what was promised is settled.
        for tick in 10..50 {
            drain.observe(look(tick * 200, tick * 40, 1000));
        }
        assert!((drain.rate() - 200.0).abs() < 5.0, "{}", drain.rate());
    }

    #[test]
    fn large_batches_are_one_rate_and_not_bursts_between_standstills() {
        // 64 rows settle together every 800 ms; looks come four times as often.
        let mut drain = DrainRate::default();
        let mut rates = Vec::new();
        for tick in 0..100 {
            drain.observe(look(tick * 200, tick / 4 * 64, 1000));
            rates.push(drain.rate());
        }
        let settled = &rates[50..];
        assert!(settled.iter().all(|rate| (rate - 80.0).abs() < 1.0), "{settled:?}");
    }

    #[test]
    fn a_queue_that_stands_still_keeps_its_rate_until_its_workers_would_be_known_to_be_dead() {
        let mut drain = DrainRate::default();
        for tick in 0..50 {
            drain.observe(look(tick * 200, tick * 40, 1000));
        }
        let still = |drain: &mut DrainRate, after_ms: u64| {
            drain.observe(look(49 * 200 + after_ms, 49 * 40, 1000));
            drain.rate()
        };
        assert!((still(&mut drain, 3900) - 200.0).abs() < 5.0);
        assert!(still(&mut drain, 4100) < 5.0);
    }

    #[test]
    fn a_count_that_begins_anew_is_no_rate() {
        let mut drain = DrainRate::default();
        drain.observe(look(0, 1_000_000, 10));
        drain.observe(look(200, 3, 10));
        assert!((drain.rate() - 400.0).abs() < 1.0, "{}", drain.rate());
    }
}
