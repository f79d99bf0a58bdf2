//! Sums the traffic reports of all gateways into one total that never decreases. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use batchfleet_broker::{QueueName, Traffic, TrafficReport};
use batchfleet_policy::RequestCounts;

use crate::decide::SILENT_GATEWAYS;

/// After this time without a report, the counts of a gateway boot are forgotten: the gateway has ended. If
/// it had only lost its connection, all of its counts would be taken for new load.
const FORGOTTEN: Duration = Duration::from_hours(24);

/// The total traffic of a fleet's queues.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// The last counts of each gateway boot, and when they were read; `None` before the first reading.
    known: Option<HashMap<String, (Traffic, Duration)>>,
    total: TrafficTotal,
}

#[derive(Debug, Default)]
struct TrafficTotal {
    offered: u64,
    /// Requests that were refused, or answered after the latency target. A histogram bucket that
    /// contains the target counts in part: by the share of its width beyond the target.
    missed: f64,
}

/// A reading of the traffic of a fleet's queues.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// Total counts.
    pub(crate) counts: CountsAt,
    /// Mean rows per request.
    pub(crate) rows_per_request: f64,
    /// 99th percentile of response times since the last reading, in seconds; `None` if there were
    /// no responses or if the percentile exceeds the largest bucket.
    pub(crate) p99: Option<f64>,
}

/// Total counts at a point in time. Like [`RequestCounts`], but with equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountsAt {
    pub(crate) at: Duration,
    pub(crate) offered: u64,
    pub(crate) missed: u64,
}

impl From<CountsAt> for RequestCounts {
    fn from(CountsAt { at, offered, missed }: CountsAt) -> Self {
        Self { at, offered, missed }
    }
}

impl Meter {
    /// Adds the reports about `queues`, which were read at `now`, and returns the totals of all
    /// these queues. Requests answered after `slo` are missed. Returns `None` if every report is
    /// stale.
    pub(crate) fn read(
        &mut self,
        now: Duration,
        reports: &[TrafficReport],
        queues: &[&QueueName],
        slo: Duration,
    ) -> Option<Reading> {
        let first = self.known.is_none();
        let known = self.known.get_or_insert_default();
        let mut times = BTreeMap::new();
        let (mut ages, mut gateways) = (Duration::ZERO, 0_u32);
        let (mut rows, mut requests) = (0.0, 0.0);
        for report in reports {
            let traffic = report.traffic.iter();
            let traffic = traffic.filter(|traffic| queues.contains(&&traffic.queue));
            let Some(traffic) = &traffic.cloned().reduce(merge) else { continue };
            let before = known.insert(report.gateway.clone(), (traffic.clone(), now));
            let before = before.map(|(traffic, _)| traffic);
            if report.age < SILENT_GATEWAYS {
                ages += report.age;
                gateways += 1;
                // The 1 avoids a division by zero if no requests were offered.
                let weight = float(traffic.offered) + 1.0;
                rows += traffic.rows_per_request * weight;
                requests += weight;
            }
            // In the first reading the counts of a gateway may be old, so they do not count as
            // load. A gateway that appears later has just started, so all of its counts do.
            if before.is_some() || !first {
                self.total.add(traffic, before.as_ref(), slo, &mut times);
            }
        }
        known.retain(|_, (_, read)| now.saturating_sub(*read) < FORGOTTEN);
        if gateways == 0 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let missed = self.total.missed as u64;
        let counts = CountsAt {
            // The counts are as old as the reports are on average.
            at: now.saturating_sub(ages / gateways),
            offered: self.total.offered,
            missed,
        };
        Some(Reading { counts, rows_per_request: rows / requests, p99: p99(&times) })
    }
}

impl TrafficTotal {
    /// Adds the difference between two reports of a gateway. Response times are added to `times`,
    /// by bucket bound.
    fn add(
        &mut self,
        now: &Traffic,
        before: Option<&Traffic>,
        slo: Duration,
        times: &mut BTreeMap<u64, u64>,
    ) {
        let since = |of: fn(&Traffic) -> u64| of(now).saturating_sub(before.map_or(0, of));
        self.offered += since(|traffic| traffic.offered);
        self.missed += float(since(|traffic| traffic.refused));
        let (slo, mut lower, mut bounded) = (slo.as_secs_f64(), 0.0, 0);
        for (place, &(bound, ended)) in now.seconds.iter().enumerate() {
            let earlier =
                before.and_then(|before| before.seconds.get(place)).map_or(0, |last| last.1);
            let ended = ended.saturating_sub(earlier);
            *times.entry(bound.to_bits()).or_default() += ended;
            let late = ((bound - slo) / (bound - lower)).clamp(0.0, 1.0);
            self.missed += late * float(ended);
            (lower, bounded) = (bound, bounded + ended);
        }
        let beyond = since(|traffic| traffic.answered).saturating_sub(bounded);
        *times.entry(f64::INFINITY.to_bits()).or_default() += beyond;
        self.missed += float(beyond);
    }
}

/// Adds up the traffic of two queues.
fn merge(mut one: Traffic, other: Traffic) -> Traffic {
    let weigh = |traffic: &Traffic| float(traffic.offered) + 1.0;
    let rows = one.rows_per_request * weigh(&one) + other.rows_per_request * weigh(&other);
    one.rows_per_request = rows / (weigh(&one) + weigh(&other));
    one.offered += other.offered;
    one.refused += other.refused;
    one.answered += other.answered;
    for ((_, ended), (_, more)) in one.seconds.iter_mut().zip(other.seconds) {
        *ended += more;
    }
    one
}

/// Returns the bucket bound below which 99 % of response times lie. The keys are the bits of
/// positive floats, which sort like the numbers.
fn p99(times: &BTreeMap<u64, u64>) -> Option<f64> {
    let all: u64 = times.values().sum();
    let mut under = 0;
    for (bound, ended) in times {
        under += ended;
        if all > 0 && under * 100 >= all * 99 {
            return Some(f64::from_bits(*bound)).filter(|bound| bound.is_finite());
        }
    }
    None
}

#[expect(clippy::cast_precision_loss, reason = "a number of requests")]
fn float(requests: u64) -> f64 {
    requests as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLO: Duration = Duration::from_millis(75);
    const TICK: Duration = Duration::from_secs(5);

    fn report(gateway: &str, offered: u64, refused: u64, seconds: [u64; 3]) -> TrafficReport {
        let bounds = [0.05, 0.1, 0.2];
        let traffic = Traffic {
            queue: QueueName::new("m", 1),
            offered,
            refused,
            rows_per_request: 2.0,
            answered: seconds.iter().sum(),
            seconds: bounds.into_iter().zip(seconds).collect(),
        };
        let age = Duration::from_millis(400);
        TrafficReport { gateway: gateway.to_owned(), age, traffic: vec![traffic] }
    }

    fn read(meter: &mut Meter, tick: u32, reports: &[TrafficReport]) -> Option<(u64, u64)> {
        let reading = meter.read(TICK * tick, reports, &[&QueueName::new("m", 1)], SLO)?;
        Some((reading.counts.offered, reading.counts.missed))
    }

    #[test]
    fn counts_from_before_the_first_reading_are_no_load() {
        let mut meter = Meter::default();
        assert_eq!(read(&mut meter, 1, &[report("a", 1000, 10, [900, 0, 0])]), Some((0, 0)));
        assert_eq!(read(&mut meter, 2, &[report("a", 1050, 13, [930, 0, 0])]), Some((50, 3)));
    }

    #[test]
    fn a_new_gateway_counts_from_its_start_and_a_stopped_one_stays_in_the_total() {
        let mut meter = Meter::default();
        let (a, b) = (report("a", 100, 0, [0; 3]), report("b", 7, 0, [0; 3]));
        read(&mut meter, 1, std::slice::from_ref(&a));
        assert_eq!(read(&mut meter, 2, &[a.clone(), b.clone()]), Some((7, 0)));
        assert_eq!(read(&mut meter, 3, std::slice::from_ref(&b)), Some((7, 0)));
        // Gateway `a` had only lost its connection.
        assert_eq!(read(&mut meter, 4, &[report("a", 105, 0, [0; 3]), b]), Some((12, 0)));
    }

    #[test]
    fn gateways_that_have_ended_are_forgotten_after_a_day() {
        let mut meter = Meter::default();
        let a_day_later = u32::try_from(FORGOTTEN.as_secs() / TICK.as_secs()).unwrap();
        let (ended, lives) = (report("ended", 100, 0, [0; 3]), report("lives", 1, 0, [0; 3]));
        read(&mut meter, 0, &[ended, lives.clone()]);
        let known = |meter: &Meter| meter.known.as_ref().unwrap().len();
        read(&mut meter, a_day_later - 1, std::slice::from_ref(&lives));
        assert_eq!(known(&meter), 2);
        read(&mut meter, a_day_later, &[lives]);
        assert_eq!(known(&meter), 1);
    }

    #[test]
    fn requests_beyond_the_target_are_late_and_a_share_of_the_bucket_around_it() {
        let mut meter = Meter::default();
        read(&mut meter, 1, &[report("a", 0, 0, [0; 3])]);
        // Half of the bucket from 50 to 100 ms is beyond 75 ms.
        assert_eq!(read(&mut meter, 2, &[report("a", 17, 0, [3, 10, 4])]), Some((17, 9)));
    }

    #[test]
    fn a_reading_is_as_old_as_its_reports() {
        let mut meter = Meter::default();
        let queue = QueueName::new("m", 1);
        let reading = meter.read(TICK, &[report("a", 0, 0, [0; 3])], &[&queue], SLO).unwrap();
        assert_eq!(reading.counts.at, Duration::from_millis(4600));
        assert!((reading.rows_per_request - 2.0).abs() < 1e-9);
    }

    #[test]
    fn stale_reports_do_not_mean_a_load_of_zero() {
        let mut meter = Meter::default();
        assert_eq!(read(&mut meter, 1, &[]), None);
        let stale = TrafficReport { age: SILENT_GATEWAYS, ..report("a", 5, 0, [0; 3]) };
        assert_eq!(read(&mut meter, 2, &[stale]), None);
    }

    #[test]
    fn versions_of_a_model_count_together_while_one_replaces_another() {
        let queues = [1, 2].map(|version| QueueName::new("m", version));
        let reported = |[old, new]: [u64; 2]| {
            let mut report_of_both = report("a", old, 1, [old, 0, 0]);
            let mut of_new = report("a", new, 2, [new, 0, 0]).traffic.remove(0);
            of_new.queue = queues[1].clone();
            report_of_both.traffic.push(of_new);
            report_of_both
        };
        let mut meter = Meter::default();
        let mut read = |tick: u32, report| {
            meter.read(TICK * tick, &[report], &[&queues[1], &queues[0]], SLO).unwrap()
        };
        read(1, reported([100, 0]));
        let reading = read(2, reported([150, 7]));
        assert_eq!((reading.counts.offered, reading.p99), (57, Some(0.05)));
        assert!((reading.rows_per_request - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_99th_percentile_is_that_of_the_replies_since_the_last_reading() {
        let mut meter = Meter::default();
        let queue = QueueName::new("m", 1);
        let mut p99 = |tick, seconds| {
            let reports = [report("a", 0, 0, seconds)];
            meter.read(TICK * tick, &reports, &[&queue], SLO).unwrap().p99
        };
        assert_eq!(p99(1, [0, 0, 100]), None);
        assert_eq!(p99(2, [98, 1, 100]), Some(0.1));
        assert_eq!(p99(3, [98, 1, 100]), None);
    }
}
