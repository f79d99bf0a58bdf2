//! Admission: decides whether a request can be answered before its deadline, and if not, when the
//! client should retry.
//!
//! By Little's law, waiting time = outstanding rows / drain rate. At 86 rows per second and
//! deadlines of 30 s, row 2,581 would be late, so the gateway refuses its request on arrival. Rows
//! that a worker has claimed count until they are answered: a worker may hold several requests of
//! many rows, each of which takes seconds.

use std::time::Duration;

use crate::CostModel;

/// Safety factor on predicted waits: an admitted request is still on time after waiting 20 % longer
/// than predicted.
const CAUTION: f64 = 1.2;
/// Time reserved for everything except waiting and computing; at most a tenth of the time until the
/// deadline.
const MARGIN: Duration = Duration::from_millis(50);
/// Bounds of the retry delay that [`admit`] returns.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(30);

/// The work ahead of a new request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ahead {
    /// Jobs that workers will claim first.
    pub jobs: f64,
    /// Rows of these jobs and of claimed jobs, as far as they are not answered. Where rows differ in
    /// length, rows of the usual length.
    pub rows: f64,
    /// Rows the fleet settles per second; infinite while unknown.
    pub rate: f64,
    /// Duration of the batch that will contain the request, or of all batches of a request with more
    /// than N rows.
    pub batch: Duration,
}

impl Ahead {
    /// Returns the predicted time from now until the answer: `rows / rate + batch`.
    pub fn wait(&self) -> Duration {
        let seconds = if self.rows > 0.0 { self.rows / self.rate } else { 0.0 };
        // Too large for a `Duration`: the rate is 0, or the wait exceeds any deadline.
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).saturating_add(self.batch)
    }
}

/// Admits a request if its predicted wait fits into the time until its deadline.
///
/// `remaining` is the time until the deadline. `share` is the part of this time that the request's
/// class may spend waiting: 1 for the most important class, less for classes that are shed earlier. A
/// request that does not wait may take all of it, less the safety factor.
///
/// # Errors
///
/// The delay after which to retry: the time until the queue would be short enough if no more
/// requests arrived, clamped to 1 s to 30 s. The caller should add jitter, so that refused clients
/// do not all return at the same time.
pub fn admit(ahead: &Ahead, remaining: Duration, share: f64) -> Result<(), Duration> {
    let share = if ahead.rows > 0.0 { share } else { 1.0 };
    let usable = remaining.saturating_sub(MARGIN.min(remaining / 10)).mul_f64(share / CAUTION);
    let excess = ahead.wait().saturating_sub(usable);
    if excess.is_zero() { Ok(()) } else { Err(excess.clamp(SOONEST, LATEST)) }
}

/// Returns how many of the oldest waiting requests can no longer be answered before their deadline.
/// The worker refuses these requests before it claims a batch of up to `n` of the `waiting` rows.
///
/// `left` is the time until each request's deadline, oldest request first. The oldest request is
/// doomed if this time is shorter than the next batch takes, L(min(n, waiting)). This rule is the
/// early drop of Nexus (Shen et al., SOSP 2019). Dropping only expired requests does not help under
/// overload: every batch would then contain requests that expire while the batch runs.
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

/// Rows per second that the fleet settles, estimated from samples of a counter. Where rows differ in
/// length, [units](crate::LengthCost) per second.
///
/// While jobs wait, the fleet works at its limit, so the number of rows settled per second is the
/// drain rate (an exponential moving average with a time constant of 1 s, or longer for jobs of many
/// rows, which settle together). While no jobs wait, the settled rows show only the arrival rate, so
/// the capacity announced by the workers is used instead.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrainRate {
    last: Option<DrainSample>,
    measured: Option<f64>,
    capacity: f64,
}

/// A sample of a queue for [`DrainRate`].
#[derive(Clone, Copy, Debug)]
pub struct DrainSample {
    /// Time of the sample, by any monotonic clock.
    pub at: Duration,
    /// Counter of the rows of settled jobs.
    pub settled: f64,
    /// Jobs waiting.
    pub waiting: u64,
    /// Capacity announced by the live workers, in rows per second; 0 if unknown.
    pub capacity: f64,
    /// Rows of a job, on average.
    pub job: f64,
    /// The expected time of a request of mean size. If it has many rows, nothing settles for so long.
    pub request: Duration,
}

impl DrainSample {
    /// Returns the time and the number of rows settled between this sample and a later sample, or
    /// `None` if no time passed or if time or counter went back.
    fn until(&self, later: &Self) -> Option<(Duration, f64)> {
        let time = later.at.checked_sub(self.at).filter(|time| !time.is_zero())?;
        let settled = later.settled - self.settled;
        (settled >= 0.0).then_some((time, settled))
    }
}

/// Time constant of the moving average, in seconds.
const SMOOTHING: f64 = 1.0;
/// The moving average is over the time of at least so many jobs. Two workers that settle jobs of many
/// rows shortly one after the other would otherwise seem to be as fast as this short time tells.
const SMOOTHED_JOBS: f64 = 4.0;
/// Maximum of the time constant, in seconds.
const LONGEST_SMOOTHING: f64 = 30.0;
/// The rate of a queue without progress stays unchanged for this time, because the workers may have
/// died. The liveness check detects dead workers after 3 s; until then the queue must not count as
/// slow.
const STANDSTILL: Duration = Duration::from_secs(4);
/// The rate also stays unchanged for this multiple of the expected time of a request.
const OVER_REQUEST: u32 = 2;

impl DrainRate {
    /// Adds a sample.
    pub fn observe(&mut self, sample: DrainSample) {
        self.capacity = sample.capacity;
        let busy = sample.waiting > 0 && self.last.is_some_and(|last| last.waiting > 0);
        let Some((time, settled)) = self.last.filter(|_| busy).and_then(|last| last.until(&sample))
        else {
            // Idle, first sample, or counter reset: the measured rate is no longer valid.
            (self.last, self.measured) = (Some(sample), None);
            return;
        };
        if settled == 0.0 && time < STANDSTILL.max(sample.request * OVER_REQUEST) {
            // A batch is running. Keep the last sample, so that the batch, once settled, is
            // averaged over its whole duration.
            return;
        }
        self.last = Some(sample);
        let seconds = time.as_secs_f64();
        let rate = settled / seconds;
        let before =
            self.measured.unwrap_or(if sample.capacity > 0.0 { sample.capacity } else { rate });
        let jobs_take = SMOOTHED_JOBS * sample.job / before.max(f64::EPSILON);
        let smoothing = jobs_take.clamp(SMOOTHING, LONGEST_SMOOTHING);
        self.measured = Some(before + (rate - before) * (1.0 - (-seconds / smoothing).exp()));
    }

    /// Returns the rows per second; infinite while unknown.
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

    fn ahead(rows: f64, rate: f64, batch_ms: u64) -> Ahead {
        Ahead { jobs: rows, rows, rate, batch: Duration::from_millis(batch_ms) }
    }

    const HALF_A_MINUTE: Duration = Duration::from_secs(30);

    #[test]
    fn admits_a_request_only_if_its_wait_and_its_batch_fit_into_the_deadline() {
        // The limit is (30 s - 50 ms) / 1.2 = 24.96 s, of which the batch takes 372 ms.
        let most = (29.95 / 1.2 - 0.372) * 86.0;
        assert_eq!(admit(&ahead(most - 1.0, 86.0, 372), HALF_A_MINUTE, 1.0), Ok(()));
        assert!(admit(&ahead(most + 1.0, 86.0, 372), HALF_A_MINUTE, 1.0).is_err());
    }

    #[test]
    fn an_idle_fleet_admits_requests_with_short_deadlines() {
        assert_eq!(admit(&ahead(0.0, 86.0, 0), Duration::from_millis(5), 0.25), Ok(()));
        assert_eq!(admit(&ahead(5.0, f64::INFINITY, 0), Duration::from_millis(5), 0.25), Ok(()));
    }

    #[test]
    fn a_long_request_to_an_idle_fleet_is_refused_only_if_it_cannot_be_in_time() {
        let takes = ahead(0.0, 17.0, 3700);
        assert_eq!(admit(&takes, Duration::from_secs(5), 0.25), Ok(()));
        assert!(admit(&takes, Duration::from_secs(4), 1.0).is_err());
    }

    #[test]
    fn claimed_rows_count_until_they_are_answered() {
        // Each request has 64 rows, which take 3.7 s, and a worker may have claimed all of them.
        let admitted = |outstanding: u32| {
            let claimed =
                Ahead { jobs: 0.0, ..ahead(f64::from(outstanding) * 64.0, 64.0 / 3.7, 3700) };
            admit(&claimed, HALF_A_MINUTE, 0.75).is_ok()
        };
        // The last of five ends after 18.5 s, the last of six after 22.2 s.
        assert_eq!([0, 4, 5, 7].map(admitted), [true, true, false, false]);
    }

    #[test]
    fn a_refusal_carries_the_time_until_the_queue_is_short_enough() {
        // 5,000 rows at 100 per second take 50 s. With a deadline of 30 s a request may wait 24.96
        // s.
        let away = admit(&ahead(5000.0, 100.0, 0), HALF_A_MINUTE, 1.0).unwrap_err();
        assert!((25.0..25.1).contains(&away.as_secs_f64()), "{away:?}");
        let soon = admit(&ahead(2500.0, 100.0, 0), HALF_A_MINUTE, 1.0).unwrap_err();
        assert_eq!(soon, SOONEST);
        assert_eq!(admit(&ahead(1.0, 0.0, 0), HALF_A_MINUTE, 1.0), Err(LATEST));
    }

    #[test]
    fn less_important_classes_are_refused_earlier() {
        let queue = ahead(1000.0, 100.0, 0);
        let shares = [1.0, 0.75, 0.25].map(|share| admit(&queue, HALF_A_MINUTE, share).is_ok());
        assert_eq!(shares, [true, true, false]);
    }

    #[test]
    fn drops_the_oldest_until_the_next_one_can_be_on_time() {
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
        // A batch of one row is fast enough for the oldest request. The second request is judged
        // before its own batch.
        assert_eq!(doomed(1, &[11, 9]), 0);
        assert_eq!(doomed(8, &[]), 0);
    }

    fn sample(at_ms: u64, settled: u32, waiting: u64) -> DrainSample {
        let (at, settled) = (Duration::from_millis(at_ms), f64::from(settled));
        DrainSample { at, settled, waiting, capacity: 400.0, job: 1.0, request: Duration::ZERO }
    }

    #[test]
    fn the_rate_is_measured_while_jobs_wait_and_the_announced_capacity_otherwise() {
        let mut drain = DrainRate::default();
        assert!(drain.rate().is_infinite());
        // Ten jobs per second arrive and are settled. Only the arrival rate is known, so the
        // capacity counts.
        for tick in 0..10 {
            drain.observe(sample(u64::from(tick) * 200, tick * 2, 0));
        }
        assert!((drain.rate() - 400.0).abs() < 1.0, "{}", drain.rate());
        // Now jobs wait, and the fleet settles half of the announced capacity.
        for tick in 10..50 {
            drain.observe(sample(u64::from(tick) * 200, tick * 40, 1000));
        }
        assert!((drain.rate() - 200.0).abs() < 5.0, "{}", drain.rate());
    }

    #[test]
    fn large_batches_give_a_steady_rate() {
        // 64 rows settle together every 800 ms; samples are taken every 200 ms.
        let mut drain = DrainRate::default();
        let mut rates = Vec::new();
        for tick in 0..100 {
            drain.observe(sample(u64::from(tick) * 200, tick / 4 * 64, 1000));
            rates.push(drain.rate());
        }
        let settled = &rates[50..];
        assert!(settled.iter().all(|rate| (rate - 80.0).abs() < 1.0), "{settled:?}");
    }

    #[test]
    fn a_queue_without_progress_keeps_its_rate_for_four_seconds() {
        let mut drain = DrainRate::default();
        for tick in 0..50 {
            drain.observe(sample(u64::from(tick) * 200, tick * 40, 1000));
        }
        let still = |drain: &mut DrainRate, after_ms: u64| {
            drain.observe(sample(49 * 200 + after_ms, 49 * 40, 1000));
            drain.rate()
        };
        assert!((still(&mut drain, 3900) - 200.0).abs() < 5.0);
        assert!(still(&mut drain, 4100) < 5.0);
    }

    #[test]
    fn requests_that_take_longer_do_not_make_a_queue_count_as_slow() {
        // 64 rows settle together every five seconds.
        let mut drain = DrainRate::default();
        for tick in 0..500 {
            let now = sample(u64::from(tick) * 200, tick / 25 * 64, 3);
            drain.observe(DrainSample { request: Duration::from_secs(5), ..now });
            let is_settled = tick > 100;
            let rate = drain.rate();
            assert!(!is_settled || (rate - 12.8).abs() < 0.5, "{tick}: {rate}");
        }
    }

    #[test]
    fn large_requests_of_several_workers_that_end_together_are_no_high_rate() {
        // Two workers settle 64 rows each every five seconds, one of them 200 ms after the other.
        let mut drain = DrainRate::default();
        let mut rates = Vec::new();
        for tick in 0..1000_u32 {
            let settled = (tick / 25 + tick.div_ceil(25)) * 64;
            let request = Duration::from_secs(5);
            let now = sample(u64::from(tick) * 200, settled, 3);
            drain.observe(DrainSample { job: 64.0, request, ..now });
            rates.push(drain.rate());
        }
        let known = &rates[400..];
        assert!(known.iter().all(|rate| (20.0..33.0).contains(rate)), "{known:?}");
    }

    #[test]
    fn the_rate_of_large_requests_follows_workers_that_become_slower() {
        // A worker settles 64 rows every five seconds, and every fifteen seconds from 200 s on.
        let mut drain = DrainRate::default();
        let mut rates = Vec::new();
        for tick in 0..1200 {
            let settled = if tick < 1000 { tick / 25 } else { 40 + (tick - 1000) / 75 };
            let request = Duration::from_secs(5);
            let now = sample(u64::from(tick) * 200, settled * 64, 3);
            drain.observe(DrainSample { job: 64.0, request, ..now });
            rates.push(drain.rate());
        }
        assert!((rates[999] - 12.8).abs() < 0.5, "{}", rates[999]);
        assert!(rates[1080] < 10.0 && rates[1199] < 7.5, "{} {}", rates[1080], rates[1199]);
    }

    #[test]
    fn a_counter_reset_is_not_a_rate() {
        let mut drain = DrainRate::default();
        drain.observe(sample(0, 1_000_000, 10));
        drain.observe(sample(200, 3, 10));
        assert!((drain.rate() - 400.0).abs() < 1.0, "{}", drain.rate());
    }
}
