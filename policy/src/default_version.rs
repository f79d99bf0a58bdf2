//! The default version of a model serves the requests that do not name a version.

use crate::scale::UTILIZATION;

/// A version can become the default up to this utilization, which is also the planned utilization
/// of fleets.
const TAKE: f64 = UTILIZATION;
/// The default version remains the default up to this utilization. The gap to [`TAKE`] is a
/// hysteresis, and is larger than the error of the measured rate.
const KEEP: f64 = 1.1;

/// Capacity and load of a version that has live workers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VersionLoad {
    /// Number of the version.
    pub number: u64,
    /// Rows per second that the workers of this version can do together; 0 if unknown, or if all
    /// workers drain.
    pub capacity: f64,
    /// Rows per second in requests that name this version.
    pub named: f64,
}

impl VersionLoad {
    /// Returns whether the utilization is at most `limit` with `rate` more rows per second.
    fn fits(&self, rate: f64, limit: f64) -> bool {
        self.capacity > 0.0 && self.named + rate <= limit * self.capacity
    }

    /// Returns the rows per second left for requests that name no version.
    fn spare(&self) -> f64 {
        (self.capacity - self.named).max(0.0)
    }
}

/// Chooses the default version; `None` if there are no versions.
///
/// `rate` is the rows per second in requests that name no version, `current` the current default.
///
/// The newest version with enough capacity is chosen. A version becomes the default if its
/// utilization will be at most 88 %, and remains the default up to 110 %. An error of 10 % in the
/// measured rate therefore does not move the default back and forth. If no version has enough
/// capacity, the version with the most spare capacity is chosen, and the newer of two equal
/// versions. To replace the current default, an older version must have 10 % more spare capacity.
/// The default of an idle model is its newest version.
pub fn default_version(versions: &[VersionLoad], current: Option<u64>, rate: f64) -> Option<u64> {
    let newest_with_capacity = |from: u64| {
        let able = versions.iter().filter(|version| version.fits(rate, TAKE));
        able.map(|version| version.number).filter(|&number| number >= from).max()
    };
    let current = versions.iter().find(|version| Some(version.number) == current);
    if let Some(current) = current.filter(|current| current.fits(rate, KEEP)) {
        return newest_with_capacity(current.number).or(Some(current.number));
    }
    let weight = |version: &VersionLoad| {
        let is_older = current.is_some_and(|current| version.number < current.number);
        if is_older { version.spare() / KEEP } else { version.spare() }
    };
    let most_spare = || {
        let order = |a: &&VersionLoad, b: &&VersionLoad| {
            weight(a).total_cmp(&weight(b)).then(a.number.cmp(&b.number))
        };
        versions.iter().max_by(order).map(|version| version.number)
    };
    newest_with_capacity(0).or_else(most_spare)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns versions 1, 2 … with these capacities, and no requests that name a version.
    fn versions(capacities: &[f64]) -> Vec<VersionLoad> {
        let numbers = 1..;
        let version = |(number, &capacity)| VersionLoad { number, capacity, named: 0.0 };
        numbers.zip(capacities).map(version).collect()
    }

    #[test]
    fn a_new_version_becomes_the_default_once_it_has_the_capacity() {
        // Version 1 has three workers at 70 %; version 2 has one, two, then three workers.
        for (newer, chosen) in [(100.0, 1), (200.0, 1), (300.0, 2)] {
            assert_eq!(default_version(&versions(&[300.0, newer]), Some(1), 210.0), Some(chosen));
        }
        // The workers of version 1 drain.
        assert_eq!(default_version(&versions(&[0.0, 300.0]), Some(2), 210.0), Some(2));
        assert_eq!(default_version(&versions(&[0.0, 100.0]), Some(1), 210.0), Some(2));
        assert_eq!(default_version(&[], Some(2), 210.0), None);
    }

    #[test]
    fn the_default_of_an_idle_model_is_its_newest_version() {
        for current in [None, Some(1), Some(2)] {
            assert_eq!(default_version(&versions(&[300.0, 1.0]), current, 0.0), Some(2));
            assert_eq!(
                default_version(&versions(&[0.0, 0.0]), current, 0.0),
                Some(2),
                "capacity unknown"
            );
        }
        assert_eq!(default_version(&versions(&[300.0, 0.0]), Some(1), 0.0), Some(1), "2 drains");
    }

    #[test]
    fn the_default_goes_back_to_an_older_version_only_beyond_110_percent() {
        let both = versions(&[300.0, 100.0]);
        assert_eq!(default_version(&both, Some(2), 109.0), Some(2));
        assert_eq!(default_version(&both, Some(2), 111.0), Some(1));
        assert_eq!(default_version(&both, Some(1), 89.0), Some(1));
        assert_eq!(default_version(&both, Some(1), 87.0), Some(2));
    }

    #[test]
    fn without_enough_capacity_the_version_with_the_most_is_the_default() {
        for (capacities, current, chosen) in [
            ([300.0, 200.0], 1, 1),
            ([200.0, 200.0], 1, 2),
            ([200.0, 300.0], 1, 2),
            ([210.0, 200.0], 2, 2),
            ([230.0, 200.0], 2, 1),
        ] {
            let versions = versions(&capacities);
            let default = default_version(&versions, Some(current), 900.0);
            assert_eq!(default, Some(chosen), "{capacities:?}");
        }
    }

    #[test]
    fn requests_that_name_a_version_take_part_of_its_capacity() {
        let mut both = versions(&[300.0, 300.0]);
        both[1].named = 100.0;
        assert_eq!(default_version(&both, Some(1), 210.0), Some(1));
        assert_eq!(default_version(&both, Some(1), 160.0), Some(2));
    }

    prop_compose! {
        fn any_versions()(
            versions in prop::collection::vec((0.0..100.0_f64, 0.0..50.0_f64), 1..5),
        ) -> Vec<VersionLoad> {
            let version = |(number, (capacity, named))| VersionLoad { number, capacity, named };
            (1..).zip(versions).map(version).collect()
        }
    }

    proptest! {
        #[test]
        fn a_version_with_enough_capacity_is_preferred_to_one_without(
            versions in any_versions(),
            current in 0_u64..6,
            rate in 0.0..200.0_f64,
        ) {
            let chosen = default_version(&versions, Some(current), rate).unwrap();
            let chosen = versions.iter().find(|version| version.number == chosen).unwrap();
            let could = |version: &VersionLoad| version.fits(rate, TAKE);
            prop_assert!(chosen.fits(rate, KEEP) || !versions.iter().any(could));
        }

        #[test]
        fn ten_percent_of_noise_in_the_rate_never_brings_back_an_earlier_default(
            versions in any_versions(),
            current in 0_u64..6,
            rate in 0.0..200.0_f64,
            noise in prop::collection::vec(0.9..1.1_f64, 2..20),
        ) {
            let mut current = Some(current);
            let mut defaults = Vec::new();
            for noise in noise {
                current = default_version(&versions, current, rate * noise);
                defaults.extend(current);
            }
            defaults.dedup();
            let mut different = defaults.clone();
            different.sort_unstable();
            different.dedup();
            prop_assert_eq!(defaults.len(), different.len(), "{:?}", defaults);
        }
    }
}
