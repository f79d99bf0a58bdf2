//! How the classes of a queue share the places of one claim.

use crate::Priority;

/// Places of each class out of 13, if jobs of all classes are waiting.
const WEIGHTS: [usize; Priority::ALL.len()] = [8, 4, 1];

/// Divides the `limit` places of a claim among the classes, given the waiting jobs of each class.
///
/// Classes share the places by weight. A class with waiting jobs gets at least one place, and no
/// class gets more places than it has waiting jobs. If there are fewer places than classes with
/// waiting jobs, `turn`, the number of claims so far, decides which class comes first, also by
/// weight, so that no class starves.
pub(crate) fn share(
    limit: usize,
    waiting: [usize; Priority::ALL.len()],
    turn: usize,
) -> [usize; Priority::ALL.len()] {
    let mut shares = [0; Priority::ALL.len()];
    let mut left = limit;
    for class in [first(turn), 0, 1, 2] {
        if left > 0 && waiting[class] > 0 && shares[class] == 0 {
            shares[class] = 1;
            left -= 1;
        }
    }
    // Each place goes to the class that is furthest below its weight; in a tie, to the highest
    // class.
    for _ in 0..left {
        let short = (0..WEIGHTS.len()).filter(|&class| shares[class] < waiting[class]);
        let next = short.reduce(|best, class| {
            let further = WEIGHTS[class] * (shares[best] + 1) > WEIGHTS[best] * (shares[class] + 1);
            if further { class } else { best }
        });
        let Some(class) = next else { break };
        shares[class] += 1;
    }
    shares
}

/// The class that comes first in this turn. Of 13 turns, each class comes first in as many as its
/// weight. The factor 5, coprime to 13, spreads the turns of a class evenly.
fn first(turn: usize) -> usize {
    match (turn % 13) * 5 % 13 {
        0..8 => 0,
        8..12 => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn classes_share_by_weight_and_each_gets_a_place() {
        const MANY: usize = 1000;
        for (limit, waiting, shares) in [
            (13, [MANY; 3], [8, 4, 1]),
            (26, [MANY; 3], [16, 8, 2]),
            (32, [0, MANY, 0], [0, 32, 0]),
            (12, [MANY, MANY, 0], [8, 4, 0]),
            (32, [1, MANY, 1], [1, 30, 1]),
            (13, [3, MANY, MANY], [3, 8, 2]),
            (3, [MANY; 3], [1, 1, 1]),
            (2, [MANY; 3], [1, 1, 0]),
            (1, [MANY; 3], [1, 0, 0]),
            (1, [0, 0, MANY], [0, 0, 1]),
            (9, [1, 2, 3], [1, 2, 3]),
            (0, [MANY; 3], [0, 0, 0]),
        ] {
            assert_eq!(share(limit, waiting, 0), shares, "{limit} of {waiting:?}");
        }
    }

    #[test]
    fn single_places_go_round_by_weight() {
        let mut served = [0; 3];
        for turn in 0..13 {
            let shares = share(1, [9; 3], turn);
            served.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share);
        }
        assert_eq!(served, WEIGHTS);
    }

    proptest! {
        #[test]
        fn no_place_is_wasted_and_no_class_gets_more_than_wait(
            limit in 0_usize..100,
            waiting: [u8; 3],
            turn: usize,
        ) {
            let waiting = waiting.map(usize::from);
            let shares = share(limit, waiting, turn);
            prop_assert_eq!(shares.iter().sum::<usize>(), limit.min(waiting.iter().sum()));
            for (share, waiting) in shares.into_iter().zip(waiting) {
                prop_assert!(share <= waiting);
                prop_assert!(share > 0 || waiting == 0 || limit < 3);
            }
        }
    }
}
