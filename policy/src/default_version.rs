//! Which version of a model answers the requests that name none, while one version replaces another.

use crate::UTILIZATION;

/// A version takes the load over if that keeps it no busier than workers are planned to be.
const TAKES: f64 = UTILIZATION;
/// And keeps it until it is this busy: the gap to [`TAKES`] is wider than what a rate is in doubt by.
const BEARS: f64 = 1.1;

/// A version of a model that has living workers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Version {
    /// Which.
    pub number: u64,
    /// Rows per second that its workers can do together; 0 while they have yet to say, or leave.
    pub capacity: f64,
    /// Rows per second of the requests that name it.
    pub named: f64,
}

impl Version {
    /// Whether `rate` rows per second and those that name it keep it busy for at most `share`.
    fn fits(&self, rate: f64, share: f64) -> bool {
        self.capacity > 0.0 && self.named + rate <= share * self.capacity
    }

    /// Rows per second that it could do of the requests that name none.
    fn room(&self) -> f64 {
        (self.capacity - self.named).max(0.0)
    }
}

/// The version to which requests that name none go, `rate` rows per second of them, where they went
/// to `current` so far; `None` without any version.
///
/// The newest that can carry them: it takes them over if it will be busy for at most 88 %, and
/// keeps them until that is 110 %, so a rate that is known to 10 % moves nothing back and forth.
/// Where none can, the one that can carry the most, and of two that can as much the newer; for an
/// older one it must be 10 % more. An idle model is answered by its newest version.
pub fn carrier(versions: &[Version], current: Option<u64>, rate: f64) -> Option<u64> {
    let newest_that_takes = |from: u64| {
        let taking = versions.iter().filter(|version| version.fits(rate, TAKES));
        taking.map(|version| version.number).filter(|&number| number >= from).max()
    };
    let held = versions.iter().find(|version| Some(version.number) == current);
    if let Some(held) = held.filter(|held| held.fits(rate, BEARS)) {
        return newest_that_takes(held.number).or(Some(held.number));
    }
    let worth = |version: &Version| {
        let is_older = held.is_some_and(|held| version.number < held.number);
        if is_older { version.room() / BEARS } else { version.room() }
    };
    let roomiest = || {
        let order = |a: &&Version, b: &&Version| {
            worth(a).total_cmp(&worth(b)).then(a.number.cmp(&b.number))
        };
        versions.iter().max_by(order).map(|version| version.number)
    };
    newest_that_takes(0).or_else(roomiest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Versions 1, 2 … of so many rows per second, which nobody names.
    fn versions(capacities: &[f64]) -> Vec<Version> {
        let numbers = 1..;
        let version = |(number, &capacity)| Version { number, capacity, named: 0.0 };
        numbers.zip(capacities).map(version).collect()
    }

    #[test]
    fn a_version_takes_over_when_it_can_carry_the_load_and_not_before() {
        // Three workers of version 1 at 70 %, and one, two, three of version 2.
        for (newer, carries) in [(100.0, 1), (200.0, 1), (300.0, 2)] {
            assert_eq!(carrier(&versions(&[300.0, newer]), Some(1), 210.0), Some(carries));
        }
        // The old ones leave.
        assert_eq!(carrier(&versions(&[0.0, 300.0]), Some(2), 210.0), Some(2));
        assert_eq!(carrier(&versions(&[0.0, 100.0]), Some(1), 210.0), Some(2));
        assert_eq!(carrier(&[], Some(2), 210.0), None);
    }

    #[test]
    fn an_idle_model_is_answered_by_its_newest_version() {
        for current in [None, Some(1), Some(2)] {
            assert_eq!(carrier(&versions(&[300.0, 1.0]), current, 0.0), Some(2));
            assert_eq!(carrier(&versions(&[0.0, 0.0]), current, 0.0), Some(2), "as yet unknown");
        }
        assert_eq!(carrier(&versions(&[300.0, 0.0]), Some(1), 0.0), Some(1), "the newest leaves");
    }

    #[test]
    fn a_version_that_took_over_goes_back_only_to_one_that_can_do_what_it_cannot() {
        let both = versions(&[300.0, 100.0]);
        assert_eq!(carrier(&both, Some(2), 109.0), Some(2));
        assert_eq!(carrier(&both, Some(2), 111.0), Some(1));
        assert_eq!(carrier(&both, Some(1), 89.0), Some(1));
        assert_eq!(carrier(&both, Some(1), 87.0), Some(2));
    }

    #[test]
    fn where_none_can_carry_the_load_the_one_that_can_do_most_does() {
        for (capacities, current, carries) in [
            ([300.0, 200.0], 1, 1),
            ([200.0, 200.0], 1, 2),
            ([200.0, 300.0], 1, 2),
            ([210.0, 200.0], 2, 2),
            ([230.0, 200.0], 2, 1),
        ] {
            let versions = versions(&capacities);
            assert_eq!(carrier(&versions, Some(current), 900.0), Some(carries), "{capacities:?}");
        }
    }

    #[test]
    fn requests_that_name_a_version_leave_less_room_in_it() {
        let mut both = versions(&[300.0, 300.0]);
        both[1].named = 100.0;
        assert_eq!(carrier(&both, Some(1), 210.0), Some(1));
        assert_eq!(carrier(&both, Some(1), 160.0), Some(2));
    }

    prop_compose! {
        fn any_versions()(
            versions in prop::collection::vec((0.0..100.0_f64, 0.0..50.0_f64), 1..5),
        ) -> Vec<Version> {
            let version = |(number, (capacity, named))| Version { number, capacity, named };
            (1..).zip(versions).map(version).collect()
        }
    }

    proptest! {
        #[test]
        fn whoever_can_carry_the_load_is_not_passed_over_for_one_that_cannot(
            versions in any_versions(),
            current in 0_u64..6,
            rate in 0.0..200.0_f64,
        ) {
            let chosen = carrier(&versions, Some(current), rate).unwrap();
            let chosen = versions.iter().find(|version| version.number == chosen).unwrap();
            let could = |version: &Version| version.fits(rate, TAKES);
            prop_assert!(chosen.fits(rate, BEARS) || !versions.iter().any(could));
        }

        #[test]
        fn a_load_that_is_known_to_a_tenth_never_brings_back_a_version_that_was_left(
            versions in any_versions(),
            current in 0_u64..6,
            rate in 0.0..200.0_f64,
            noise in prop::collection::vec(0.9..1.1_f64, 2..20),
        ) {
            let mut current = Some(current);
            let mut carriers = Vec::new();
            for noise in noise {
                current = carrier(&versions, current, rate * noise);
                carriers.extend(current);
            }
            carriers.dedup();
            let mut different = carriers.clone();
            different.sort_unstable();
            different.dedup();
            prop_assert_eq!(carriers.len(), different.len(), "{:?}", carriers);
        }
    }
}
