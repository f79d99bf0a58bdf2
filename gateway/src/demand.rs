//! What is asked of a version of a model, by those who name it and by those who leave the choice to
//! the gateway: what that choice follows from.

use std::time::Duration;

/// Time constant of the moving averages, in seconds: longer than what chance does to an arrival
/// rate, shorter than a worker takes to start.
const SMOOTHING: f64 = 5.0;

/// Running counts of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Jobs that all gateways put into its queue.
    pub(crate) queued: u64,
    /// Requests that this gateway let in.
    pub(crate) accepted: u64,
    /// Requests that this gateway refused for want of room.
    pub(crate) refused: u64,
    /// Requests that came here, whatever became of them.
    pub(crate) asked: u64,
    /// Those of them that named the version.
    pub(crate) named: u64,
}

/// The same, per second: moving averages, each a share of what it would be had it been looked at
/// for ever.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    queued: f64,
    accepted: f64,
    refused: f64,
    asked: f64,
    named: f64,
}

/// Requests per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Asked {
    /// That name the version.
    pub(crate) named: f64,
    /// That name none, and went to this one.
    pub(crate) open: f64,
}

/// What is asked of one version by all gateways together, as this one knows it: what went into the
/// queue, and of what it does not see elsewhere, which is who was refused and who named the version,
/// as large a part as here.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    last: Option<(Duration, Counts)>,
    rates: Rates,
}

impl Demand {
    /// Takes in the counts as they are `at` so long after this gateway started to look.
    pub(crate) fn observe(&mut self, at: Duration, now: Counts) {
        let Some((then, before)) = self.last.replace((at, now)) else { return };
        let seconds = at.saturating_sub(then).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let kept = (-seconds / SMOOTHING).exp();
        let follow = |rate: &mut f64, of: fn(&Counts) -> u64| {
            // A count that went back began anew.
            #[expect(clippy::cast_precision_loss, reason = "requests between two looks")]
            let since = of(&now).saturating_sub(of(&before)) as f64;
            *rate = kept * *rate + (1.0 - kept) * since / seconds;
        };
        follow(&mut self.rates.queued, |counts| counts.queued);
        follow(&mut self.rates.accepted, |counts| counts.accepted);
        follow(&mut self.rates.refused, |counts| counts.refused);
        follow(&mut self.rates.asked, |counts| counts.asked);
        follow(&mut self.rates.named, |counts| counts.named);
    }

    /// What is asked `at` so long after this gateway started to look: at a version that it learnt
    /// of later, nothing was before. So what versions are asked adds up while requests move from one
    /// to another.
    pub(crate) fn asked(&self, at: Duration) -> Asked {
        let Rates { queued, accepted, refused, asked, named } = self.rates;
        let weight = -(-at.as_secs_f64() / SMOOTHING).exp_m1();
        let offered = queued / weight.max(f64::EPSILON) * (1.0 + ratio(refused, accepted));
        let named = ratio(named, asked);
        Asked { named: offered * named, open: offered * (1.0 - named) }
    }
}

/// `part` of `whole`; 0 of nothing.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked after looks five times a second, at each of which the counts grew by `each`.
    fn after(demand: &mut Demand, looks: std::ops::Range<u32>, each: Counts) -> Asked {
        let mut now = demand.last.map(|(_, counts)| counts).unwrap_or_default();
        for look in looks.clone() {
            demand.observe(Duration::from_millis(200) * look, now);
            now.queued += each.queued;
            now.accepted += each.accepted;
            now.refused += each.refused;
            now.asked += each.asked;
            now.named += each.named;
        }
        let end = Duration::from_millis(200) * looks.end;
        demand.observe(end, now);
        demand.asked(end)
    }

    fn is_near(value: f64, expected: f64) {
        assert!((value - expected).abs() <= expected * 0.01, "{value}, not {expected}");
    }

    #[test]
    fn is_right_from_the_second_look_on() {
        let each = Counts { queued: 20, accepted: 10, asked: 10, ..Counts::default() };
        let asked = after(&mut Demand::default(), 0..1, each);
        is_near(asked.open, 100.0);
        is_near(after(&mut Demand::default(), 0..100, each).open, 100.0);
    }

    #[test]
    fn counts_the_refused_and_tells_those_apart_who_name_the_version() {
        let each = Counts { queued: 20, accepted: 10, refused: 20, asked: 40, named: 10 };
        let Asked { named, open } = after(&mut Demand::default(), 0..100, each);
        is_near(named, 75.0);
        is_near(open, 225.0);
    }

    #[test]
    fn what_moves_from_one_version_to_another_stays_as_much() {
        let each = Counts { queued: 20, accepted: 10, asked: 10, ..Counts::default() };
        let (mut old, mut new) = (Demand::default(), Demand::default());
        after(&mut old, 0..20, each);
        for look in 20..60 {
            let later = after(&mut old, look..look + 1, Counts::default()).open
                + after(&mut new, look..look + 1, each).open;
            is_near(later, 100.0);
        }
    }
}
