//! What the gateways of a fleet have counted, as one running total that never goes back.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use batchfleet_broker::{QueueName, Traffic, TrafficReport};
use batchfleet_policy::RequestCounts;

/// A gateway that said nothing for so long has no part in what is asked now.
const SILENT: Duration = Duration::from_secs(15);

/// The running total of one queue.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// What each boot of a gateway said last; `None` before the first look.
    known: Option<HashMap<String, Traffic>>,
    total: Total,
}

#[derive(Debug, Default)]
struct Total {
    offered: u64,
    /// Refused, or later than the target; a bucket of times counts by the share beyond that.
    missed: f64,
}

/// What the gateways say of a queue.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// The total.
    pub(crate) counts: CountsAt,
    /// Rows a request has, on average.
    pub(crate) rows_per_request: f64,
    /// Within how many seconds 99 % of those were answered that were since the last look; `None`
    /// if none were, or if they took longer than is told apart.
    pub(crate) p99: Option<f64>,
}

/// [`RequestCounts`], comparable.
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
    /// Takes in what gateways said of these `queues` together, looked at `now`; a request is late
    /// after `slo`. `None` if no gateway has said anything of late.
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
            let said = report.traffic.iter().filter(|said| queues.contains(&&said.queue));
            let Some(said) = &said.cloned().reduce(both) else { continue };
            let before = known.insert(report.gateway.clone(), said.clone());
            if report.age < SILENT {
                ages += report.age;
                gateways += 1;
                let weight = count(said.offered) + 1.0;
                rows += said.rows_per_request * weight;
                requests += weight;
            }
            // What was counted before anybody looked is no load of now; what a gateway counted
            // before it was seen for the first time later on, is.
            if before.is_some() || !first {
                self.total.add(said, before.as_ref(), slo, &mut times);
            }
        }
        if gateways == 0 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let missed = self.total.missed as u64;
        let counts = CountsAt {
            at: now.saturating_sub(ages / gateways),
            offered: self.total.offered,
            missed,
        };
        Some(Reading { counts, rows_per_request: rows / requests, p99: p99(&times) })
    }
}

impl Total {
    /// Takes in what came between two words of a gateway; `times` as well, by their bounds.
    fn add(
        &mut self,
        now: &Traffic,
        before: Option<&Traffic>,
        slo: Duration,
        times: &mut BTreeMap<u64, u64>,
    ) {
        let since = |of: fn(&Traffic) -> u64| of(now).saturating_sub(before.map_or(0, of));
        self.offered += since(|said| said.offered);
        self.missed += count(since(|said| said.refused));
        let (slo, mut lower, mut bounded) = (slo.as_secs_f64(), 0.0, 0);
        for (place, &(bound, ended)) in now.seconds.iter().enumerate() {
            let earlier = before.and_then(|said| said.seconds.get(place)).map_or(0, |last| last.1);
            let ended = ended.saturating_sub(earlier);
            *times.entry(bound.to_bits()).or_default() += ended;
            let late = ((bound - slo) / (bound - lower)).clamp(0.0, 1.0);
            self.missed += late * count(ended);
            (lower, bounded) = (bound, bounded + ended);
        }
        let beyond = since(|said| said.answered).saturating_sub(bounded);
        *times.entry(f64::INFINITY.to_bits()).or_default() += beyond;
        self.missed += count(beyond);
    }
}

/// What a gateway said of two queues, as if it were one.
fn both(mut one: Traffic, other: Traffic) -> Traffic {
    let weigh = |said: &Traffic| count(said.offered) + 1.0;
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

/// The bound under which 99 % of these times lie. The bits of positive numbers have their order.
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
fn count(requests: u64) -> f64 {
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
    fn what_was_counted_before_the_first_look_is_no_load() {
        let mut meter = Meter::default();
        assert_eq!(read(&mut meter, 1, &[report("a", 1000, 10, [900, 0, 0])]), Some((0, 0)));
        assert_eq!(read(&mut meter, 2, &[report("a", 1050, 13, [930, 0, 0])]), Some((50, 3)));
    }

    #[test]
    fn a_gateway_that_comes_counts_from_its_start_and_one_that_goes_takes_nothing_along() {
        let mut meter = Meter::default();
        let (a, b) = (report("a", 100, 0, [0; 3]), report("b", 7, 0, [0; 3]));
        read(&mut meter, 1, std::slice::from_ref(&a));
        assert_eq!(read(&mut meter, 2, &[a.clone(), b.clone()]), Some((7, 0)));
        assert_eq!(read(&mut meter, 3, std::slice::from_ref(&b)), Some((7, 0)));
        // It was only cut off.
        assert_eq!(read(&mut meter, 4, &[report("a", 105, 0, [0; 3]), b]), Some((12, 0)));
    }

    #[test]
    fn late_are_those_beyond_the_target_and_a_share_of_those_around_it() {
        let mut meter = Meter::default();
        read(&mut meter, 1, &[report("a", 0, 0, [0; 3])]);
        // Half of the bucket from 50 to 100 ms is beyond 75 ms.
        assert_eq!(read(&mut meter, 2, &[report("a", 17, 0, [3, 10, 4])]), Some((17, 9)));
    }

    #[test]
    fn a_reading_is_as_old_as_what_it_was_read_from() {
        let mut meter = Meter::default();
        let queue = QueueName::new("m", 1);
        let reading = meter.read(TICK, &[report("a", 0, 0, [0; 3])], &[&queue], SLO).unwrap();
        assert_eq!(reading.counts.at, Duration::from_millis(4600));
        assert!((reading.rows_per_request - 2.0).abs() < 1e-9);
    }

    #[test]
    fn silence_is_no_load_of_zero() {
        let mut meter = Meter::default();
        assert_eq!(read(&mut meter, 1, &[]), None);
        let silent = TrafficReport { age: SILENT, ..report("a", 5, 0, [0; 3]) };
        assert_eq!(read(&mut meter, 2, &[silent]), None);
    }

    #[test]
    fn versions_of_a_model_count_together_while_one_replaces_another() {
        let queues = [1, 2].map(|version| QueueName::new("m", version));
        let said = |[old, new]: [u64; 2]| {
            let mut said = report("a", old, 1, [old, 0, 0]);
            let mut of_new = report("a", new, 2, [new, 0, 0]).traffic.remove(0);
            of_new.queue = queues[1].clone();
            said.traffic.push(of_new);
            said
        };
        let mut meter = Meter::default();
        let mut read = |tick: u32, said| {
            meter.read(TICK * tick, &[said], &[&queues[1], &queues[0]], SLO).unwrap()
        };
        read(1, said([100, 0]));
        let reading = read(2, said([150, 7]));
        assert_eq!((reading.counts.offered, reading.p99), (57, Some(0.05)));
        assert!((reading.rows_per_request - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_99th_percentile_is_of_the_answers_since_the_last_look() {
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
