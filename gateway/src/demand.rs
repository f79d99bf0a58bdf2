//! The demand for one model version, by which the gateway chooses the default version: the rates of
//! requests that name the version and of requests that name no version.

use std::time::Duration;

/// Time constant of the moving averages, in seconds: long enough to smooth random arrivals, shorter
/// than the start of a worker.
const SMOOTHING: f64 = 5.0;

/// Running counts of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DemandCounts {
    /// Jobs that all gateways have put into the queue.
    pub(crate) queued: u64,
    /// Requests that this gateway accepted.
    pub(crate) accepted: u64,
    /// Requests that this gateway refused because the fleet is too small.
    pub(crate) refused: u64,
    /// All requests for this version at this gateway.
    pub(crate) offered: u64,
    /// Requests at this gateway that named the version.
    pub(crate) named: u64,
}

/// Moving averages of the counts, per second. The averages start at 0 and are therefore too low by
/// the factor 1 - exp(-t / SMOOTHING).
#[derive(Clone, Copy, Debug, Default)]
struct Averages {
    queued: f64,
    accepted: f64,
    refused: f64,
    offered: f64,
    named: f64,
}

/// Requests per second at all gateways.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DemandRates {
    /// Requests that name the version.
    pub(crate) named: f64,
    /// Requests that name no version and are routed to this version.
    pub(crate) unnamed: f64,
}

/// Estimates the demand for one version at all gateways. The queue counts the jobs of all gateways,
/// but refusals and named versions are known for this gateway only. The ratios of this gateway are
/// therefore assumed for all gateways.
#[derive(Debug, Default)]
pub(crate) struct VersionDemand {
    last: Option<(Duration, DemandCounts)>,
    averages: Averages,
}

impl VersionDemand {
    /// Updates the averages; `at` is the time since polling began.
    pub(crate) fn observe(&mut self, at: Duration, now: DemandCounts) {
        let Some((then, before)) = self.last.replace((at, now)) else { return };
        let seconds = at.saturating_sub(then).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let kept = (-seconds / SMOOTHING).exp();
        let follow = |rate: &mut f64, of: fn(&DemandCounts) -> u64| {
            // A count that decreased was reset, because Redis lost its data.
            #[expect(clippy::cast_precision_loss, reason = "requests between two looks")]
            let since = of(&now).saturating_sub(of(&before)) as f64;
            *rate = kept * *rate + (1.0 - kept) * since / seconds;
        };
        follow(&mut self.averages.queued, |counts| counts.queued);
        follow(&mut self.averages.accepted, |counts| counts.accepted);
        follow(&mut self.averages.refused, |counts| counts.refused);
        follow(&mut self.averages.offered, |counts| counts.offered);
        follow(&mut self.averages.named, |counts| counts.named);
    }

    /// The current rates. `at` is the time since polling began, even for a version that was added
    /// later: the demand for that version was 0 before. The sum over all versions is therefore
    /// correct while requests move between versions.
    pub(crate) fn rates(&self, at: Duration) -> DemandRates {
        let Averages { queued, accepted, refused, offered, named } = self.averages;
        // Corrects for averages that start at 0.
        let weight = -(-at.as_secs_f64() / SMOOTHING).exp_m1();
        let demand = queued / weight.max(f64::EPSILON) * (1.0 + ratio(refused, accepted));
        let named = ratio(named, offered);
        DemandRates { named: demand * named, unnamed: demand * (1.0 - named) }
    }

    /// How many jobs other gateways have put into the queue lately for each one of this gateway; 0 before
    /// the first.
    pub(crate) fn others_per_own(&self) -> f64 {
        let Averages { queued, accepted, .. } = self.averages;
        ratio(queued - accepted, accepted).max(0.0)
    }
}

/// `part / whole`; 0 if `whole` is 0.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates after the polls `looks`, five per second; the counts grow by `each` per poll.
    fn after(
        demand: &mut VersionDemand,
        looks: std::ops::Range<u32>,
        each: DemandCounts,
    ) -> DemandRates {
        let mut now = demand.last.map(|(_, counts)| counts).unwrap_or_default();
        for look in looks.clone() {
            demand.observe(Duration::from_millis(200) * look, now);
            now.queued += each.queued;
            now.accepted += each.accepted;
            now.refused += each.refused;
            now.offered += each.offered;
            now.named += each.named;
        }
        let end = Duration::from_millis(200) * looks.end;
        demand.observe(end, now);
        demand.rates(end)
    }

    fn is_near(value: f64, expected: f64) {
        assert!((value - expected).abs() <= expected * 0.01, "{value}, not {expected}");
    }

    #[test]
    fn the_rates_are_right_from_the_second_look_on() {
        let each =
            DemandCounts { queued: 20, accepted: 10, offered: 10, ..DemandCounts::default() };
        let rates = after(&mut VersionDemand::default(), 0..1, each);
        is_near(rates.unnamed, 100.0);
        is_near(after(&mut VersionDemand::default(), 0..100, each).unnamed, 100.0);
    }

    #[test]
    fn refused_requests_count_and_named_versions_are_separate() {
        let each = DemandCounts { queued: 20, accepted: 10, refused: 20, offered: 40, named: 10 };
        let DemandRates { named, unnamed } = after(&mut VersionDemand::default(), 0..100, each);
        is_near(named, 75.0);
        is_near(unnamed, 225.0);
    }

    #[test]
    fn the_sum_of_two_versions_stays_while_requests_move_between_them() {
        let each =
            DemandCounts { queued: 20, accepted: 10, offered: 10, ..DemandCounts::default() };
        let (mut old, mut new) = (VersionDemand::default(), VersionDemand::default());
        after(&mut old, 0..20, each);
        for look in 20..60 {
            let later = after(&mut old, look..look + 1, DemandCounts::default()).unnamed
                + after(&mut new, look..look + 1, each).unnamed;
            is_near(later, 100.0);
        }
    }
}
