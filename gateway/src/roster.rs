//! Tracks living workers across gaps in their announcements.
//!
//! When Redis loses its data, the announcements of workers are lost, too; living workers announce
//! themselves again within a second. A worker whose announcement is missing therefore counts as
//! alive until the liveness period has passed. While Redis is out of reach, no worker can announce
//! itself: afterwards the period begins anew, and a worker that lived before the gap counts as alive
//! even if Redis still has an old announcement of it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use batchfleet_broker::{FleetSnapshot, ObservedWorker, roles::LIVENESS};
use tokio::time::Instant;

/// Announcements that could not be read for this long are a gap. Usually they are read several times
/// a second.
const GAP: Duration = Duration::from_secs(1);

/// The workers that were alive at the last read of announcements.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    living: HashMap<String, (ObservedWorker, Instant)>,
    /// The last look, whether or not there were news.
    looked: Option<Instant>,
    /// When the workers of the last snapshot were last known to be announced.
    announced: Option<Instant>,
    /// Until then, an announcement may be from before a gap.
    doubted_until: Option<Instant>,
}

impl Roster {
    /// Adds to a snapshot the workers that have been missing for less than the liveness period.
    pub(crate) fn complete(&mut self, mut snapshot: FleetSnapshot, now: Instant) -> FleetSnapshot {
        self.has_looked(now);
        let doubts = self.doubted_until.is_some_and(|until| now < until);
        let workers = &mut snapshot.workers;
        let name = |worker: &ObservedWorker| worker.announcement.worker.clone();
        let read: HashSet<_> =
            workers.iter().filter(|worker| worker.live || !doubts).map(name).collect();
        self.living.retain(|worker, (_, last)| !read.contains(worker) && now - *last < LIVENESS);
        workers.retain(|worker| worker.live || !self.living.contains_key(&name(worker)));
        let missing: Vec<_> = self.living.values().map(|(worker, _)| worker.clone()).collect();
        for worker in workers.iter().filter(|worker| worker.live) {
            self.living.insert(name(worker), (worker.clone(), now));
        }
        workers.extend(missing);
        self.announced = Some(now);
        snapshot
    }

    /// Records that nothing has changed since the last snapshot: its workers are still announced.
    pub(crate) fn is_unchanged(&mut self, now: Instant) {
        self.has_looked(now);
        let before = self.announced.replace(now);
        let announced = self.living.values_mut().filter(|(_, last)| Some(*last) == before);
        announced.for_each(|(_, last)| *last = now);
    }

    fn has_looked(&mut self, now: Instant) {
        if self.looked.replace(now).is_some_and(|last| now - last >= GAP) {
            self.living.values_mut().for_each(|(_, last)| *last = now);
            self.doubted_until = Some(now + LIVENESS);
        }
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Announcement, ModelSpec, QueueName, WorkerId};

    use super::*;

    fn worker(number: u128, live: bool) -> ObservedWorker {
        let spec = ModelSpec {
            queue: QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: std::num::NonZeroU32::new(1),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        ObservedWorker { announcement: Announcement::new(WorkerId(number), spec), live }
    }

    fn complete(
        roster: &mut Roster,
        workers: Vec<ObservedWorker>,
        now: Instant,
    ) -> Vec<ObservedWorker> {
        roster.complete(FleetSnapshot { workers, promises: Vec::new() }, now).workers
    }

    #[test]
    fn a_worker_whose_announcement_is_gone_lives_until_the_liveness_period_has_passed() {
        let (mut roster, start) = (Roster::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(complete(&mut roster, vec![worker(1, true)], at(0)).len(), 1);
        for millis in (500..3000).step_by(500) {
            assert_eq!(complete(&mut roster, Vec::new(), at(millis)), [worker(1, true)]);
        }
        assert_eq!(complete(&mut roster, Vec::new(), at(3000)), []);
    }

    #[test]
    fn a_worker_that_is_announced_as_dead_is_dead() {
        let (mut roster, now) = (Roster::default(), Instant::now());
        complete(&mut roster, vec![worker(1, true), worker(2, true)], now);
        let workers = complete(&mut roster, vec![worker(1, false), worker(2, true)], now);
        assert_eq!(workers, [worker(1, false), worker(2, true)]);
        assert_eq!(complete(&mut roster, Vec::new(), now), [worker(2, true)]);
    }

    #[test]
    fn workers_of_an_unchanged_snapshot_live_on_and_missing_ones_do_not() {
        let (mut roster, start) = (Roster::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        complete(&mut roster, vec![worker(1, true), worker(2, true)], at(0));
        complete(&mut roster, vec![worker(1, true)], at(500));
        for millis in (1000..2900).step_by(200) {
            roster.is_unchanged(at(millis));
        }
        // Worker 1 was announced until just now, worker 2 only at 0.
        assert_eq!(complete(&mut roster, Vec::new(), at(3000)), [worker(1, true)]);
        assert_eq!(complete(&mut roster, Vec::new(), at(3800)), [worker(1, true)]);
        assert_eq!(complete(&mut roster, Vec::new(), at(4600)), [worker(1, true)]);
        assert_eq!(complete(&mut roster, Vec::new(), at(5400)), [worker(1, true)]);
        assert_eq!(complete(&mut roster, Vec::new(), at(5900)), []);
    }

    #[test]
    fn after_a_gap_living_workers_have_time_to_announce_themselves_again() {
        let (mut roster, start) = (Roster::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        complete(&mut roster, vec![worker(1, true), worker(2, false)], at(0));
        // Redis was out of reach for longer than an announcement lives.
        let workers = complete(&mut roster, vec![worker(1, false), worker(2, false)], at(5000));
        assert_eq!(workers, [worker(2, false), worker(1, true)]);
        for millis in (5500..8000).step_by(500) {
            assert_eq!(complete(&mut roster, Vec::new(), at(millis)), [worker(1, true)]);
        }
        assert_eq!(complete(&mut roster, vec![worker(1, false)], at(8000)), [worker(1, false)]);
        assert_eq!(complete(&mut roster, vec![worker(1, true)], at(8500)), [worker(1, true)]);
        assert_eq!(complete(&mut roster, vec![worker(1, false)], at(9000)), [worker(1, false)]);
    }
}
