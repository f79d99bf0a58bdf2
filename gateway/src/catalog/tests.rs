//! Tests of the catalogue.

use batchfleet_broker::{Announcement, RequestId, UnavailableModel, WorkerId};
use prometheus::Registry;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    books::{Admitted, Record},
    outstanding::RequestWork,
    trace::Trace,
};

const LOOK: Duration = Duration::from_millis(200);
const FORGET: Duration = Duration::from_mins(10);

/// Living workers of `version`, each with a capacity of 100 rows per second.
fn workers(version: u64, workers: u128) -> Vec<ObservedWorker> {
    let spec = ModelSpec {
        queue: QueueName::new("m", version),
        platform: String::new(),
        backend: String::new(),
        max_batch: std::num::NonZeroU32::new(8),
        inputs: Vec::new(),
        outputs: Vec::new(),
    };
    let first = u128::from(version) * 100;
    let announced = |worker| Announcement::new(WorkerId(first + worker), spec.clone());
    let observed =
        |worker| ObservedWorker::live(Announcement { capacity: 100.0, ..announced(worker) });
    (0..workers).map(observed).collect()
}

/// A catalogue, and the jobs that its gateway has added to the queue of each version.
struct Bench {
    catalog: Catalog,
    looks: u32,
    added: HashMap<u64, u64>,
}

impl Bench {
    fn new() -> Self {
        let metrics = GatewayMetrics::new(&Registry::new()).unwrap();
        Self { catalog: Catalog::new(metrics, FORGET), looks: 0, added: HashMap::new() }
    }

    /// Accepts a request that names no version, and cancels the request immediately.
    fn accept(&self, model: &Model) {
        let mut record = Record::arrive(&self.catalog.metrics, Trace::off());
        record.offered(&model.books, false);
        let seat = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let work = RequestWork::default();
        record.accepted(RequestId::random(), Admitted { _seat: seat, work });
    }

    /// The version that a request without a version gets.
    fn default_version(&self) -> u64 {
        self.catalog.find("m", None, |_| true).unwrap().spec.queue.version
    }

    /// Simulates a minute with five polls per second, `workers` living workers of versions 1
    /// and 2, and `requests` requests per poll. Returns the default versions in order, without
    /// repetitions.
    fn minute(&mut self, workers: [u128; 2], requests: u64) -> Vec<u64> {
        let snapshot = || FleetSnapshot {
            workers: [self::workers(1, workers[0]), self::workers(2, workers[1])].concat(),
            promises: Vec::new(),
        };
        let mut defaults = Vec::new();
        for _ in 0..300 {
            self.catalog.update(snapshot());
            let model = self.catalog.find("m", None, |_| true).unwrap();
            for _ in 0..requests {
                self.accept(&model);
            }
            defaults.push(self.default_version());
            *self.added.entry(self.default_version()).or_default() += requests;
            let at = LOOK * self.looks;
            for model in self.catalog.all() {
                let added = self.added.get(&model.spec.queue.version).copied();
                let added = added.unwrap_or_default();
                self.catalog.observe(&model, at, Backlog { added, ..Backlog::default() });
            }
            self.catalog.choose_default_versions(at);
            self.looks += 1;
        }
        defaults.dedup();
        defaults
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_no_longer_announced_is_forgotten_with_its_metrics() {
    let registry = Registry::new();
    let catalog = Catalog::new(GatewayMetrics::new(&registry).unwrap(), FORGET);
    let update = |workers| catalog.update(FleetSnapshot { workers, promises: Vec::new() });
    let series = || registry.gather().iter().map(|family| family.get_metric().len()).sum();
    let before: usize = series();
    update([workers(1, 1), workers(2, 1)].concat());
    let polled = catalog.all();
    for model in &polled {
        catalog.observe(model, LOOK, Backlog::default());
        catalog.publish(model);
    }
    update(workers(2, 1));
    tokio::time::advance(FORGET.saturating_sub(LOOK)).await;
    update(workers(2, 1));
    assert_eq!(catalog.versions("m"), [1, 2]);
    tokio::time::advance(LOOK).await;
    update(workers(2, 1));
    assert_eq!(catalog.versions("m"), [2]);
    update(Vec::new());
    tokio::time::advance(FORGET).await;
    update(Vec::new());
    assert!(catalog.all().is_empty());
    // A poll that began before brings no series back.
    for model in &polled {
        catalog.observe(model, LOOK, Backlog::default());
    }
    let after: usize = series();
    assert_eq!(after, before);
}

#[test]
fn an_unloaded_version_is_gone_until_a_worker_serves_it_again() {
    let catalog = Bench::new().catalog;
    let update = |workers| catalog.update(FleetSnapshot { workers, promises: Vec::new() });
    let dead = |version| {
        let worker = workers(version, 1).remove(0);
        vec![ObservedWorker { live: false, ..worker }]
    };
    let words = |version| catalog.find("m", version, |_| true).unwrap_err().message;
    update([workers(1, 1), workers(2, 1)].concat());
    update([dead(1), workers(2, 1)].concat());
    catalog.forget_unserved("m");
    assert_eq!(catalog.versions("m"), [2]);
    assert!(words(Some("1")).contains("'m' version 1 is not at ready state"));
    update([dead(1), dead(2)].concat());
    catalog.forget_unserved("m");
    update([dead(1), dead(2)].concat());
    assert!(catalog.all().is_empty(), "the announcements of dead workers bring nothing back");
    assert!(words(None).contains("'m' has no available versions"));
    let hidden = catalog.find("m", None, |_| false).unwrap_err().message;
    assert!(hidden.contains("'m' is not found"), "{hidden}");
    update([workers(1, 1), dead(2)].concat());
    assert_eq!(catalog.versions("m"), [1]);
    assert_eq!(catalog.unloaded(), [QueueName::new("m", 2)].into());
}

#[tokio::test]
async fn models_that_only_dead_workers_have_announced_are_bounded() {
    let bench = Bench::new();
    let ghost = |number: usize| {
        let mut worker = workers(1, 1).remove(0);
        worker.announcement.model.queue.model = format!("ghost-{number}");
        ObservedWorker { live: false, ..worker }
    };
    let mut announced: Vec<_> = (0..3000).map(ghost).collect();
    announced.extend(workers(1, 1));
    bench.catalog.update(FleetSnapshot { workers: announced, promises: Vec::new() });
    assert_eq!(bench.catalog.all().len(), MOST_UNSERVED + 1);
    assert!(bench.catalog.find("m", None, |_| true).is_ok());
}

#[test]
fn a_dead_worker_does_not_bring_back_the_inputs_that_its_model_had() {
    let Bench { catalog, .. } = Bench::new();
    let spec = || catalog.find("m", None, |_| true).unwrap().spec.clone();
    let dead = |workers: Vec<ObservedWorker>| -> Vec<ObservedWorker> {
        workers.into_iter().map(|worker| ObservedWorker::dead(worker.announcement)).collect()
    };
    let fleet = |workers: &[ObservedWorker]| FleetSnapshot {
        workers: workers.to_vec(),
        promises: Vec::new(),
    };
    let old = dead(workers(1, 1));
    let mut new = workers(1, 2).split_off(1);
    new[0].announcement.model.platform = "new".to_owned();
    catalog.update(fleet(&old));
    assert_eq!(spec().platform, "");
    catalog.update(fleet(&[old.clone(), new.clone()].concat()));
    assert_eq!(spec().platform, "new");
    // The new worker has died as well, in either order of the announcements.
    let new = dead(new);
    for workers in [[old.clone(), new.clone()], [new, old]] {
        catalog.update(fleet(&workers.concat()));
        assert_eq!(spec().platform, "new");
    }
}

#[test]
fn the_config_is_that_of_a_living_worker() {
    let bench = Bench::new();
    let observed = |config: Option<&str>, live| {
        let mut worker = workers(1, 1).remove(0);
        worker.announcement.config = config.map(serde_json::Value::from);
        ObservedWorker { live, ..worker }
    };
    let config = |workers: &[ObservedWorker]| {
        let workers = workers.to_vec();
        bench.catalog.update(FleetSnapshot { workers, promises: Vec::new() });
        bench.catalog.config(&bench.catalog.find("m", None, |_| true).unwrap())
    };
    let (old, new) = (observed(None, true), observed(Some("new"), true));
    let dead = observed(Some("dead"), false);
    assert_eq!(config(std::slice::from_ref(&old)), None);
    assert_eq!(config(&[old, new.clone(), dead.clone()]), Some("new".into()));
    assert_eq!(config(&[dead]), Some("dead".into()));
}

#[test]
fn the_default_version_changes_once_when_the_new_version_has_the_capacity() {
    let mut bench = Bench::new();
    // 210 rows per second: 70 % of the capacity of three workers.
    assert_eq!(bench.minute([3, 0], 42), [1]);
    assert_eq!(bench.minute([3, 1], 42), [1]);
    assert_eq!(bench.minute([3, 2], 42), [1]);
    assert_eq!(bench.minute([3, 3], 42), [1, 2]);
    assert_eq!(bench.minute([0, 3], 42), [2]);
    // The only version with workers is the default, even if its capacity is too small.
    assert_eq!(bench.minute([0, 1], 42), [2]);
    assert_eq!(bench.minute([3, 1], 42), [2, 1]);
}

#[test]
fn a_model_that_no_worker_can_serve_is_unavailable_with_the_reason() {
    let catalog = Bench::new().catalog;
    let mut workers = workers(1, 1);
    let bad = |version| UnavailableModel {
        model: "m".to_owned(),
        version: Some(version),
        reason: "its file is empty".to_owned(),
    };
    workers[0].announcement.unavailable = vec![bad(1), bad(2)];
    catalog.update(FleetSnapshot { workers: workers.clone(), promises: Vec::new() });
    let found = |version| catalog.find("m", version, |_| true).map_err(|error| error.code);
    assert_eq!(found(None).unwrap().spec.queue.version, 1, "another worker serves it");
    assert!(found(Some("1")).is_ok());
    assert_eq!(found(Some("2")).unwrap_err(), "model_unavailable");
    assert_eq!(found(Some("3")).unwrap_err(), "model_not_found");
    let hidden = catalog.find("m", Some("2"), |_| false).unwrap_err();
    assert_eq!(hidden.code, "model_not_found");
    assert_eq!(catalog.unready().as_deref(), Some("m:2"));
    workers[0].announcement.unavailable = vec![bad(1)];
    catalog.update(FleetSnapshot { workers, promises: Vec::new() });
    assert_eq!(catalog.unready(), None);
}

#[test]
fn the_newest_version_is_the_default_without_load_or_without_others() {
    let mut bench = Bench::new();
    assert_eq!(bench.minute([1, 1], 0), [2]);
    assert_eq!(bench.minute([1, 0], 1), [1]);
    assert_eq!(bench.minute([0, 1], 90), [2]);
    assert_eq!(bench.minute([0, 0], 0), [2], "the last with workers, or the newest");
}
