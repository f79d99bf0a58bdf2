//! Tells gateways which queues no worker will serve any longer: the queues of deleted fleets. The
//! requests that wait there are then refused at once, and not only at their deadline.

use std::{collections::HashMap, time::Duration};

use batchfleet_broker::{Announcement, QueueName};
use parking_lot::Mutex;

use crate::observe::FleetView;

/// For how long a queue stays retracted: longer than a worker's shutdown and than the deadlines of
/// requests.
const RETRACTED: Duration = Duration::from_mins(5);

/// The queues that fleets serve, and those that fleets have served lately.
#[derive(Debug, Default)]
pub(crate) struct ServedQueues(Mutex<HashMap<QueueName, ServedQueue>>);

#[derive(Debug)]
struct ServedQueue {
    /// The announcement of one of its workers.
    last: Announcement,
    /// Since when no fleet serves the queue.
    abandoned: Option<Duration>,
}

impl ServedQueues {
    /// Notes the queue of a fleet.
    pub(super) fn note(&self, view: &FleetView) {
        let Some(last) = view.memorable() else { return };
        let (last, queue) = (last.clone(), last.model.queue.clone());
        self.0.lock().insert(queue, ServedQueue { last, abandoned: None });
    }

    /// Returns an announcement for each queue to retract at `now`. Forgets queues that were
    /// abandoned long ago.
    pub(super) fn abandoned(
        &self,
        now: Duration,
        is_served: impl Fn(&QueueName) -> bool,
    ) -> Vec<Announcement> {
        let mut queues = self.0.lock();
        for (name, queue) in queues.iter_mut() {
            queue.abandoned = (!is_served(name)).then(|| queue.abandoned.unwrap_or(now));
        }
        queues.retain(|_, queue| {
            queue.abandoned.is_none_or(|since| now.saturating_sub(since) < RETRACTED)
        });
        let abandoned = queues.values().filter(|queue| queue.abandoned.is_some());
        abandoned.map(|queue| queue.last.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_queue_is_retracted_for_a_while_and_not_when_another_fleet_serves_it() {
        let served = ServedQueues::default();
        let queue = QueueName::new("m", 1);
        let last = sample::unmeasured(1, queue.clone());
        served.0.lock().insert(queue, ServedQueue { last: last.clone(), abandoned: None });
        let at = Duration::from_secs;
        let abandoned = |seconds, is_served| served.abandoned(at(seconds), |_| is_served);
        let all = [last];
        assert_eq!(abandoned(10, true), []);
        assert_eq!(abandoned(20, false), all);
        assert_eq!(abandoned(25, true), []);
        assert_eq!(abandoned(30, false), all);
        assert_eq!(abandoned(329, false), all);
        assert_eq!(abandoned(330, false), []);
        assert!(served.0.lock().is_empty());
    }
}
