//! Decides how many shards a queue uses, and to which of them a gateway sends the next job.
//!
//! A batch is claimed from one shard, so a shard with few workers makes small batches and long waits.
//! A queue therefore uses only as many shards as have enough workers.
//!
//! Gateways send to each shard in proportion to what its workers announce, by smooth weighted round
//! robin: jobs that follow each other go to different shards, so that a burst is spread as well.

/// How many of `shards` a queue with so many workers uses.
pub fn shards_in_use(workers: usize, per_shard: usize, shards: usize) -> usize {
    (workers / per_shard.max(1)).clamp(1, shards.max(1))
}

/// The turns of one queue.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    /// What each shard is owed.
    credit: Vec<f64>,
}

impl Spread {
    /// The next shard. `weights` has the capacity of each shard that may be used, and `None` for the
    /// others; `None` if there is no such shard. Without any capacity, the first one is used: there
    /// the first worker will live.
    pub fn next(&mut self, weights: &[Option<f64>]) -> Option<usize> {
        let weight =
            |shard: &Option<f64>| shard.filter(|weight| *weight > 0.0 && weight.is_finite());
        let sum: f64 = weights.iter().filter_map(weight).sum();
        if sum <= 0.0 {
            return weights.iter().position(Option::is_some);
        }
        self.credit.resize(weights.len(), 0.0);
        for (credit, shard) in self.credit.iter_mut().zip(weights) {
            // A shard that cannot be used saves up nothing for the time when it can.
            *credit = weight(shard).map_or(0.0, |weight| *credit + weight / sum);
        }
        let can =
            self.credit.iter().enumerate().filter(|(shard, _)| weight(&weights[*shard]).is_some());
        let (shard, _) = can.max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))?;
        self.credit[shard] -= 1.0;
        Some(shard)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turns(weights: &[Option<f64>], turns: usize) -> Vec<usize> {
        let mut spread = Spread::default();
        (0..turns).filter_map(|_| spread.next(weights)).collect()
    }

    #[test]
    fn a_shard_is_used_once_it_has_enough_workers() {
        let in_use = |workers| shards_in_use(workers, 8, 3);
        assert_eq!([0, 1, 15, 16, 23, 24, 1000].map(in_use), [1, 1, 1, 2, 2, 3, 3]);
        assert_eq!(shards_in_use(5, 0, 3), 3, "0 per shard counts as 1");
        assert_eq!(shards_in_use(5, 8, 0), 1);
    }

    #[test]
    fn shards_take_turns_in_proportion_to_their_capacity() {
        assert_eq!(turns(&[Some(2.0), Some(1.0), Some(1.0)], 8), [0, 1, 2, 0, 0, 1, 2, 0]);
        assert_eq!(turns(&[Some(5.0), None, Some(5.0)], 4), [0, 2, 0, 2]);
        assert_eq!(turns(&[Some(0.0), Some(3.0)], 2), [1, 1]);
    }

    #[test]
    fn without_capacity_the_first_usable_shard_is_used() {
        assert_eq!(turns(&[None, Some(0.0), Some(0.0)], 2), [1, 1]);
        assert_eq!(turns(&[Some(f64::NAN), Some(f64::INFINITY)], 1), [0]);
        assert_eq!(turns(&[None, None], 2), [0; 0]);
        assert_eq!(turns(&[], 2), [0; 0]);
    }

    proptest! {
        #[test]
        fn every_shard_gets_its_share_at_any_time(
            weights in prop::collection::vec(prop::option::of(0.1..1e6_f64), 1..6),
            jobs in 1..500_usize,
        ) {
            let sum: f64 = weights.iter().flatten().sum();
            prop_assume!(sum > 0.0);
            let turns = turns(&weights, jobs);
            prop_assert_eq!(turns.len(), jobs);
            let count = |number: usize| f64::from(u32::try_from(number).unwrap());
            for (shard, weight) in weights.iter().enumerate() {
                let got = count(turns.iter().filter(|turn| **turn == shard).count());
                let due = count(jobs) * weight.unwrap_or(0.0) / sum;
                prop_assert!((got - due).abs() <= count(weights.len()), "{} for {}", got, due);
            }
        }
    }
}
