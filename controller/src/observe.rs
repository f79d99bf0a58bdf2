//! What Redis knows of a fleet.

use std::collections::{BTreeSet, HashMap, HashSet};

use batchfleet_broker::{
    Announcement, BrokerError, FleetSnapshot, ObservedWorker, Observer, Promise, QueueName,
    TrafficReport,
};

use crate::crd::ModelFleet;

/// What Redis knows of a fleet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// Its queue; `None` while neither a worker nor a gateway knows the model.
    pub(crate) queue: Option<QueueName>,
    /// The queues of other versions that its workers serve: while one replaces another, requests may
    /// still go there.
    pub(crate) others: BTreeSet<QueueName>,
    /// Its workers, the dead ones included; and as dead ones those that are promised.
    pub(crate) words: Vec<ObservedWorker>,
    /// What was promised of it.
    promises: Vec<Promise>,
    /// What gateways have counted, of all models.
    pub(crate) reports: Vec<TrafficReport>,
    /// Jobs in all these queues that no worker has claimed.
    pub(crate) waiting: u64,
    /// Jobs of these queues that each worker holds.
    pub(crate) held: HashMap<String, u64>,
}

/// Looks at a fleet's queues, its workers, which run on these `hosts`, and its gateways; `known` is
/// what a worker said before, should Redis have forgotten all.
pub(crate) async fn look(
    observer: &dyn Observer,
    fleet: &ModelFleet,
    hosts: &HashSet<String>,
    known: Option<&Announcement>,
) -> Result<Look, BrokerError> {
    let FleetSnapshot { workers, mut promises } = observer.fleet().await?;
    let expected = promises.iter().map(|promise| ObservedWorker::dead(promise.expected.clone()));
    let mut words: Vec<_> = expected.chain(workers).collect();
    words.extend(known.cloned().map(ObservedWorker::dead));
    let reports = observer.traffic().await?;
    let version = fleet.spec.model.version.map(u64::from);
    let queue = queue(&fleet.model_name(), version, &words, &reports);
    let others = queue.as_ref().map(|queue| others(queue, &words, hosts)).unwrap_or_default();
    words.retain(|word| queue.as_ref() == Some(&word.announcement.model.queue));
    promises.retain(|promise| queue.as_ref() == Some(&promise.expected.model.queue));
    let (mut waiting, mut held) = (0, HashMap::new());
    for queue in queue.iter().chain(&others) {
        waiting += observer.backlog(queue).await?.depth();
        held.extend(observer.held(queue).await?);
    }
    Ok(Look { queue, others, words, promises, reports, waiting, held })
}

impl Look {
    /// What is worth remembering of a fleet that has no workers: the word of one that served, and
    /// not the last one of a worker that left, which says that nobody shall count on it.
    pub(crate) fn memorable(&self) -> Option<&Announcement> {
        let is_promised = |announcement: &Announcement| {
            self.promises.iter().any(|promise| promise.holds && promise.expected == *announcement)
        };
        let worth = |word: &&ObservedWorker| {
            (word.announcement.capacity > 0.0, word.live, is_promised(&word.announcement))
        };
        self.words.iter().max_by_key(worth).map(|word| &word.announcement)
    }

    /// Whether somebody has asked for the fleet since this look.
    pub(crate) async fn is_called(&self, observer: &dyn Observer) -> Result<bool, BrokerError> {
        let Some(queue) = &self.queue else { return Ok(false) };
        let offered = |reports: &[TrafficReport]| -> u64 {
            let traffic = reports.iter().flat_map(|report| &report.traffic);
            traffic.filter(|said| said.queue == *queue).map(|said| said.offered).sum()
        };
        Ok(observer.backlog(queue).await?.depth() > 0
            || offered(&observer.traffic().await?) != offered(&self.reports))
    }
}

/// The queue of the wanted version; if any will do, of the newest that a worker serves, else of the
/// newest that is known.
fn queue(
    model: &str,
    version: Option<u64>,
    words: &[ObservedWorker],
    reports: &[TrafficReport],
) -> Option<QueueName> {
    if let Some(version) = version {
        return Some(QueueName::new(model, version));
    }
    let served = words.iter().map(|word| (word.live, &word.announcement.model.queue));
    let asked = reports.iter().flat_map(|report| &report.traffic).map(|said| (false, &said.queue));
    let known = served.chain(asked).filter(|(_, queue)| queue.model == model);
    known.max_by_key(|(live, queue)| (*live, queue.version)).map(|(_, queue)| queue.clone())
}

/// The queues of the model's other versions that workers on these hosts serve.
fn others(
    queue: &QueueName,
    words: &[ObservedWorker],
    hosts: &HashSet<String>,
) -> BTreeSet<QueueName> {
    let ours = words.iter().filter(|word| word.live && hosts.contains(&word.announcement.host));
    let served = ours.map(|word| &word.announcement.model.queue);
    served.filter(|other| other.model == queue.model && *other != queue).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use batchfleet_broker::Traffic;

    use super::*;
    use crate::sample;

    fn word(version: u64, live: bool) -> ObservedWorker {
        ObservedWorker { announcement: sample::word(1, QueueName::new("m", version)), live }
    }

    #[test]
    fn other_versions_belong_to_a_fleet_as_long_as_its_own_workers_serve_them() {
        let at = |host: &str, mut word: ObservedWorker| {
            word.announcement.host = host.to_owned();
            word
        };
        let words = [
            at("ours", word(1, true)),
            at("ours", word(2, true)),
            at("ours", word(3, false)),
            at("theirs", word(4, true)),
            at("ours", ObservedWorker::live(sample::word(1, QueueName::new("other", 1)))),
        ];
        let others = others(&QueueName::new("m", 2), &words, &HashSet::from(["ours".to_owned()]));
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
        let followed = |words: &[_], reports: &[_]| {
            queue("m", None, words, reports).map(|queue| queue.version)
        };
        assert_eq!(followed(&[word(1, true), word(2, true), word(3, false)], &[]), Some(2));
        assert_eq!(followed(&[word(1, false)], &[report(2)]), Some(2));
        assert_eq!(followed(&[], &[]), None);
        assert_eq!(queue("m", Some(9), &[word(1, true)], &[]), Some(QueueName::new("m", 9)));
        assert_eq!(queue("other", None, &[word(1, true)], &[report(2)]), None);
    }
}
