//! Decides at which shard a worker lives.
//!
//! Over the shards in use, workers are spread by rendezvous hashing: each worker finds its home alone,
//! and a shard that goes or comes moves only the workers that live there, or will.

use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// How long another home must look better before a worker moves there from a shard that answers.
const SETTLED: Duration = Duration::from_secs(10);

/// The shard at which the worker of a queue lives; `None` if no shard is up. `shards` has the name of
/// each shard and whether it is up.
pub(super) fn home(
    worker: &str,
    queue: &str,
    shards: &[(&str, bool)],
    in_use: usize,
) -> Option<usize> {
    let up = shards.iter().enumerate().filter(|(_, (_, is_up))| *is_up);
    let rank = |name: &str| xxh3_64(format!("{worker}\n{queue}\n{name}").as_bytes());
    up.take(in_use.max(1)).max_by_key(|(_, (name, _))| rank(name)).map(|(shard, _)| shard)
}

/// The home of one worker over time.
#[derive(Debug, Default)]
pub(super) struct Home {
    current: usize,
    /// A better home, and since when it has looked better.
    better: Option<(usize, Instant)>,
    is_settled: bool,
}

impl Home {
    /// The shard at which the worker lives.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// Compares the home with the best one. A worker leaves a shard that is down at once, and one that
    /// is up only after another has been better for 10 s: each move costs the batches of two shards.
    pub(super) fn compare(&mut self, best: Option<usize>, is_up: bool, now: Instant) -> usize {
        let Some(best) = best else { return self.current };
        if best == self.current {
            self.better = None;
        } else {
            let since = match self.better {
                Some((known, since)) if known == best => since,
                _ => now,
            };
            self.better = Some((best, since));
            if !self.is_settled || !is_up || now - since >= SETTLED {
                (self.current, self.better) = (best, None);
            }
        }
        self.is_settled = true;
        self.current
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 5] = ["a:6379", "b:6379", "c:6379", "d:6379", "e:6379"];

    fn up(shards: usize) -> Vec<(&'static str, bool)> {
        NAMES.iter().take(shards).map(|name| (*name, true)).collect()
    }

    fn homes(shards: &[(&str, bool)], in_use: usize) -> Vec<usize> {
        let home = |worker: usize| home(&format!("worker-{worker}"), "m:1", shards, in_use);
        (0..1000).map(|worker| home(worker).unwrap()).collect()
    }

    #[test]
    fn workers_live_at_the_first_shards_in_use_and_only_where_a_shard_is_up() {
        assert!(homes(&up(4), 1).iter().all(|home| *home == 0));
        let mut shards = up(4);
        shards[0].1 = false;
        assert!(homes(&shards, 1).iter().all(|home| *home == 1));
        assert!(homes(&shards, 2).iter().all(|home| [1, 2].contains(home)));
        assert_eq!(home("w", "m:1", &[("a", false)], 1), None);
    }

    proptest! {
        #[test]
        fn workers_are_spread_evenly(shards in 2..=5_usize) {
            let homes = homes(&up(shards), shards);
            for shard in 0..shards {
                let here = homes.iter().filter(|home| **home == shard).count();
                prop_assert!(here.abs_diff(1000 / shards) < 100, "{here} of 1000 at one of {shards}");
            }
        }

        #[test]
        fn a_shard_that_goes_moves_only_its_own_workers(shards in 2..=5_usize, gone in 0..5_usize) {
            prop_assume!(gone < shards);
            let before = homes(&up(shards), shards);
            let mut left = up(shards);
            left[gone].1 = false;
            for (before, after) in before.into_iter().zip(homes(&left, shards)) {
                prop_assert!(after != gone && (before == gone || before == after));
            }
        }
    }

    #[test]
    fn a_worker_leaves_a_shard_that_is_down_at_once_and_another_after_10_s() {
        let (mut home, start) = (Home::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(home.compare(Some(2), true, at(0)), 2, "the first home is the best");
        assert_eq!(home.compare(Some(1), true, at(1)), 2);
        assert_eq!(home.compare(Some(1), true, at(10)), 2);
        assert_eq!(home.compare(Some(1), true, at(11)), 1);
        assert_eq!(home.compare(Some(0), false, at(12)), 0);
        assert_eq!(home.compare(Some(1), true, at(13)), 0);
        assert_eq!(home.compare(Some(0), true, at(20)), 0, "it is the best again");
        assert_eq!(home.compare(Some(1), true, at(25)), 0);
        assert_eq!(home.compare(None, false, at(40)), 0, "there is no other");
    }
}
