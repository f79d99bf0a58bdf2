//! Reads the state of one fleet from Redis.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use batchfleet_broker::{
    Announcement, BrokerError, FleetSnapshot, ObservedWorker, Observer, Promise, QueueName,
    TrafficReport,
};

use crate::{crd::ModelFleet, snapshot::RedisSnapshot};

/// The state of one fleet in Redis.
#[derive(Clone, Debug, Default)]
pub(crate) struct FleetView {
    /// Queue of the version that the fleet serves; `None` while no worker and no gateway knows the
    /// model.
    pub(crate) queue: Option<QueueName>,
    /// Queues of other versions that the fleet's workers serve. During a rollout these queues may
    /// still receive requests.
    pub(crate) other_queues: BTreeSet<QueueName>,
    /// The newest version that a living worker of the fleet itself serves.
    pub(crate) own_version: Option<u64>,
    /// Workers of the queue, including dead ones. Promised and remembered workers are included as
    /// dead workers.
    pub(crate) workers: Vec<ObservedWorker>,
    /// Promises that a worker will start for the queue.
    promises: Vec<Promise>,
    /// Last traffic report of each gateway, about all models.
    pub(crate) traffic: Arc<[TrafficReport]>,
    /// Jobs in the fleet's queues that no worker has claimed.
    pub(crate) waiting: u64,
    /// Number of claimed jobs by worker.
    pub(crate) held: HashMap<String, u64>,
}

impl FleetView {
    /// Reads the state of a fleet whose pods are `hosts`. `remembered` is an earlier announcement
    /// of one of its workers, used if Redis has lost its data.
    pub(crate) async fn read(
        snapshot: &RedisSnapshot,
        observer: &dyn Observer,
        fleet: &ModelFleet,
        hosts: &HashSet<String>,
        remembered: Option<&Announcement>,
    ) -> Result<Self, BrokerError> {
        let (model, traffic) = (fleet.model_name(), snapshot.traffic.clone());
        let FleetSnapshot { workers: observed, promises } = &snapshot.fleet;
        let is_ours = |announcement: &Announcement| announcement.model.queue.model == model;
        let promises = promises.iter().filter(|promise| is_ours(&promise.expected));
        let mut promises: Vec<_> = promises.cloned().collect();
        let expected = promises.iter().map(|promise| promise.expected.clone());
        let mut workers: Vec<_> = expected.map(ObservedWorker::dead).collect();
        workers.extend(observed.iter().filter(|worker| is_ours(&worker.announcement)).cloned());
        workers.extend(remembered.cloned().map(ObservedWorker::dead));
        let is_own = |worker: &ObservedWorker| {
            worker.live
                && hosts.contains(&worker.announcement.host)
                && is_ours(&worker.announcement)
        };
        let served = |worker: &ObservedWorker| worker.announcement.model.queue.version;
        let own_version = workers.iter().filter(|it| is_own(it)).map(served).max();
        // A fleet without a version in its spec follows its own workers, also those that it had last:
        // another fleet may serve a newer version of the model, such as a canary.
        let last = remembered.filter(|it| is_ours(it)).map(|it| it.model.queue.version);
        let version = fleet.spec.model.version.map(u64::from).or(own_version).or(last);
        let queue = queue(&model, version, &workers, &traffic);
        let other_queues =
            queue.as_ref().map(|queue| others(queue, &workers, hosts)).unwrap_or_default();
        workers.retain(|worker| queue.as_ref() == Some(&worker.announcement.model.queue));
        promises.retain(|promise| queue.as_ref() == Some(&promise.expected.model.queue));
        let (mut waiting, mut held) = (0, HashMap::new());
        for queue in queue.iter().chain(&other_queues) {
            waiting += observer.backlog(queue).await?.depth();
            held.extend(observer.held(queue).await?);
        }
        Ok(Self { queue, other_queues, own_version, workers, promises, traffic, waiting, held })
    }

    /// Returns the announcement to remember until the fleet has workers again. Announcements with
    /// capacity are preferred, because the last announcement of a worker that deregisters has a
    /// capacity of 0.
    pub(crate) fn memorable(&self) -> Option<&Announcement> {
        let is_promised = |announcement: &Announcement| {
            self.promises.iter().any(|promise| promise.holds && promise.expected == *announcement)
        };
        let worth = |worker: &&ObservedWorker| {
            let announcement = &worker.announcement;
            (announcement.capacity > 0.0, worker.live, is_promised(announcement))
        };
        self.workers.iter().max_by_key(worth).map(|worker| &worker.announcement)
    }

    /// Returns whether the fleet has received a request since this view was read.
    pub(crate) async fn has_new_request(
        &self,
        snapshot: &RedisSnapshot,
        observer: &dyn Observer,
    ) -> Result<bool, BrokerError> {
        let Some(queue) = &self.queue else { return Ok(false) };
        let offered = |reports: &[TrafficReport]| -> u64 {
            let traffic = reports.iter().flat_map(|report| &report.traffic);
            traffic.filter(|traffic| traffic.queue == *queue).map(|traffic| traffic.offered).sum()
        };
        Ok(offered(&snapshot.traffic) != offered(&self.traffic)
            || observer.backlog(queue).await?.depth() > 0)
    }
}

/// Returns the queue of this version. Without a version, returns the queue of the newest version that a
/// living worker serves, else of the newest known version.
fn queue(
    model: &str,
    version: Option<u64>,
    workers: &[ObservedWorker],
    reports: &[TrafficReport],
) -> Option<QueueName> {
    if let Some(version) = version {
        return Some(QueueName::new(model, version));
    }
    let served = workers.iter().map(|worker| (worker.live, &worker.announcement.model.queue));
    let traffic = reports.iter().flat_map(|report| &report.traffic);
    let requested = traffic.map(|traffic| (false, &traffic.queue));
    let known = served.chain(requested).filter(|(_, queue)| queue.model == model);
    known.max_by_key(|(live, queue)| (*live, queue.version)).map(|(_, queue)| queue.clone())
}

/// Returns the queues of the model's other versions that workers on `hosts` serve.
fn others(
    queue: &QueueName,
    workers: &[ObservedWorker],
    hosts: &HashSet<String>,
) -> BTreeSet<QueueName> {
    let ours =
        workers.iter().filter(|worker| worker.live && hosts.contains(&worker.announcement.host));
    let served = ours.map(|worker| &worker.announcement.model.queue);
    served.filter(|other| other.model == queue.model && *other != queue).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use batchfleet_broker::Traffic;

    use super::*;
    use crate::sample;

    fn worker(version: u64, live: bool) -> ObservedWorker {
        ObservedWorker { announcement: sample::unmeasured(1, QueueName::new("m", version)), live }
    }

    #[test]
    fn other_versions_belong_to_a_fleet_as_long_as_its_own_workers_serve_them() {
        let at = |host: &str, mut worker: ObservedWorker| {
            worker.announcement.host = host.to_owned();
            worker
        };
        let workers = [
            at("ours", worker(1, true)),
            at("ours", worker(2, true)),
            at("ours", worker(3, false)),
            at("theirs", worker(4, true)),
            at("ours", ObservedWorker::live(sample::unmeasured(1, QueueName::new("other", 1)))),
        ];
        let others = others(&QueueName::new("m", 2), &workers, &HashSet::from(["ours".to_owned()]));
        assert_eq!(others, BTreeSet::from([QueueName::new("m", 1)]));
    }

    fn report(version: u64) -> TrafficReport {
        let traffic = Traffic {
            queue: QueueName::new("m", version),
            offered: 0,
            refused: 0,
            rows_per_request: 1.0,
            answered: 0,
            seconds: Vec::new(),
        };
        TrafficReport { gateway: "g".into(), age: Duration::ZERO, traffic: vec![traffic] }
    }

    #[test]
    fn a_fleet_follows_the_newest_version_that_is_served_else_the_newest_that_is_known() {
        let followed = |workers: &[_], reports: &[_]| {
            queue("m", None, workers, reports).map(|queue| queue.version)
        };
        assert_eq!(followed(&[worker(1, true), worker(2, true), worker(3, false)], &[]), Some(2));
        assert_eq!(followed(&[worker(1, false)], &[report(2)]), Some(2));
        assert_eq!(followed(&[], &[]), None);
        assert_eq!(queue("m", Some(9), &[worker(1, true)], &[]), Some(QueueName::new("m", 9)));
        assert_eq!(queue("other", None, &[worker(1, true)], &[report(2)]), None);
    }
}
