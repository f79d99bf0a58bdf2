//! Which workers live, as far as one can know.
//!
//! A queue that lost its data lost the workers' words as well; they will say them again within a
//! second. Until the time in which a living worker must be heard has passed, silence means nothing.

use std::collections::{HashMap, HashSet};

use batchfleet_broker::{Announcement, roles::LIVENESS};
use tokio::time::Instant;

/// The workers that were alive when last heard of.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    living: HashMap<String, (Announcement, Instant)>,
}

impl Roster {
    /// Takes in every word that stands in the queue's keeping now; returns those to go by: the same,
    /// and the last words of workers that have not been silent for long enough to be dead.
    pub(crate) fn hear(&mut self, mut words: Vec<Announcement>, now: Instant) -> Vec<Announcement> {
        let heard: HashSet<_> = words.iter().map(|word| word.worker.clone()).collect();
        self.living.retain(|worker, (_, last)| !heard.contains(worker) && now - *last < LIVENESS);
        words.extend(self.living.values().map(|(word, _)| word.clone()));
        for word in words.iter().filter(|word| word.live && heard.contains(&word.worker)) {
            self.living.insert(word.worker.clone(), (word.clone(), now));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use batchfleet_broker::{ModelSpec, QueueName, WorkerId};

    use super::*;

    fn word(worker: u128, live: bool) -> Announcement {
        let spec = ModelSpec {
            queue: QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: std::num::NonZeroU32::new(1),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        Announcement { live, ..Announcement::new(WorkerId(worker), spec) }
    }

    #[test]
    fn a_worker_whose_word_is_gone_lives_until_it_must_have_been_heard_again() {
        let (mut roster, start) = (Roster::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(roster.hear(vec![word(1, true)], at(0)).len(), 1);
        assert_eq!(roster.hear(Vec::new(), at(2900)), [word(1, true)]);
        assert_eq!(roster.hear(Vec::new(), at(3000)), []);
    }

    #[test]
    fn a_worker_that_is_known_to_be_dead_is_dead() {
        let (mut roster, now) = (Roster::default(), Instant::now());
        roster.hear(vec![word(1, true), word(2, true)], now);
        let words = roster.hear(vec![word(1, false), word(2, true)], now);
        assert_eq!(words, [word(1, false), word(2, true)]);
        assert_eq!(roster.hear(Vec::new(), now), [word(2, true)]);
    }
}
