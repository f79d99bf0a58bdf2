//! The catalogue: the models that workers have announced.

use std::{collections::HashMap, sync::Arc, time::Duration};

use batchfleet_broker::{
    Backlog, FleetSnapshot, ModelSpec, ObservedWorker, Priority, Promise, QueueName,
};
use batchfleet_policy::{VersionLoad, default_version};
use parking_lot::RwLock;

use crate::{
    books::ModelBooks,
    explain::{Explanation, ObservedQueue},
    metrics::GatewayMetrics,
    model::Model,
    unavailable::UnavailableModels,
};
use batchfleet_oip::{Problem, names};

type Models = HashMap<QueueName, Arc<Model>>;

/// Every model that was ever announced to this gateway. Each request reads the catalogue; only new
/// or changed models rewrite it.
#[derive(Debug)]
pub(crate) struct Catalog {
    models: RwLock<Arc<Models>>,
    /// The workers of the last snapshot.
    workers: RwLock<Arc<[ObservedWorker]>>,
    /// Models that workers cannot serve.
    unavailable: UnavailableModels,
    metrics: GatewayMetrics,
}

impl Catalog {
    pub(crate) fn new(metrics: GatewayMetrics) -> Self {
        Self {
            models: RwLock::default(),
            workers: RwLock::default(),
            unavailable: UnavailableModels::default(),
            metrics,
        }
    }

    /// Finds a model by name and version; without a version, the version with the greatest
    /// [`rank`](Model::rank). A model that the client may not use is reported as unknown.
    pub(crate) fn find(
        &self,
        model: &str,
        version: Option<&str>,
        may_use: impl Fn(&str) -> bool,
    ) -> Result<Arc<Model>, Problem> {
        let name = names::model(model)?;
        let version = version.map(names::version).transpose()?;
        let models = self.snapshot();
        let found = match version {
            Some(version) => models.get(&QueueName::new(name, version)),
            None => models
                .values()
                .filter(|model| model.spec.queue.model == name)
                .max_by_key(|model| model.rank()),
        };
        found.filter(|_| may_use(name)).cloned().ok_or_else(|| {
            let reason = self.unavailable.reason(name, version).filter(|_| may_use(name));
            reason.map_or_else(|| unknown(name, version), |reason| unavailable(name, &reason))
        })
    }

    /// The first known model, with its version if known, that no worker is ready to serve.
    pub(crate) fn unready(&self) -> Option<String> {
        let models = self.all();
        if let Some(model) = models.iter().find(|model| !model.is_ready()) {
            return Some(model.spec.queue.to_string());
        }
        let serves = |name: &str, version: u64| {
            models.iter().any(|model| model.spec.queue == QueueName::new(name, version))
        };
        let reasons = self.unavailable.all();
        reasons.keys().find_map(|(name, version)| match version {
            Some(version) if serves(name, *version) => None,
            Some(version) => Some(QueueName::new(name, *version).to_string()),
            None => Some(name.clone()),
        })
    }

    /// Models that workers found in their repositories but cannot serve.
    pub(crate) fn unavailable(&self) -> &UnavailableModels {
        &self.unavailable
    }

    /// Every version of a model, oldest first.
    pub(crate) fn versions(&self, model: &str) -> Vec<u64> {
        let models = self.snapshot();
        let mut versions: Vec<_> =
            models.keys().filter(|queue| queue.model == model).map(|queue| queue.version).collect();
        versions.sort_unstable();
        versions
    }

    /// Every version of every model, sorted by name and version.
    pub(crate) fn all(&self) -> Vec<Arc<Model>> {
        let mut models: Vec<_> = self.snapshot().values().cloned().collect();
        models.sort_by(|a, b| a.spec.queue.cmp(&b.spec.queue));
        models
    }

    /// Applies the announcements of workers and controllers. A model without workers stays in the
    /// catalogue, even if its announcement is gone because Redis lost its data.
    pub(crate) fn update(&self, fleet: FleetSnapshot) {
        self.add_new(&fleet);
        for (queue, model) in self.snapshot().iter() {
            let living = || fleet.workers.iter().filter(|worker| worker.serves(queue));
            let promised =
                |promise: &&Promise| promise.holds && promise.expected.model.queue == *queue;
            model.update(
                living().map(|worker| &worker.announcement),
                fleet.promises.iter().find(promised).map(|promise| &promise.expected),
            );
            self.metrics
                .fleet
                .set_workers(&model.spec, living().map(|worker| &worker.announcement));
        }
        self.unavailable.update(&fleet.workers);
        *self.workers.write() = fleet.workers.into();
    }

    /// The workers of the last snapshot.
    pub(crate) fn workers(&self) -> Arc<[ObservedWorker]> {
        self.workers.read().clone()
    }

    /// Adds new models, and replaces models whose spec has changed. The announcement of a living
    /// worker takes precedence over a controller's promise, and a promise over the announcement of
    /// a dead worker.
    fn add_new(&self, fleet: &FleetSnapshot) {
        let promised = fleet.promises.iter().map(|promise| (&promise.expected.model, false));
        let served = fleet.workers.iter().map(|worker| (&worker.announcement.model, worker.live));
        let mut specs = HashMap::<&QueueName, (&ModelSpec, bool)>::new();
        for (spec, live) in promised.chain(served) {
            let known = specs.entry(&spec.queue).or_insert((spec, live));
            if live && !known.1 {
                *known = (spec, live);
            }
        }
        let known = self.snapshot();
        let news: Vec<&ModelSpec> = specs
            .into_values()
            .map(|(spec, _)| spec)
            .filter(|spec| known.get(&spec.queue).is_none_or(|model| model.spec != **spec))
            .collect();
        if news.is_empty() {
            return;
        }
        let mut models = (*known).clone();
        for spec in news {
            let queue = &spec.queue;
            tracing::info!(
                model = queue.model,
                version = queue.version,
                "model added to catalogue"
            );
            let books = ModelBooks::new(queue.clone(), self.metrics.for_model(queue));
            models.insert(queue.clone(), Arc::new(Model::new(spec.clone(), books)));
        }
        *self.models.write() = Arc::new(models);
    }

    /// Applies the result of polling a model's queue, and updates the metrics. `at` is the time
    /// since polling began.
    pub(crate) fn observe(&self, model: &Model, at: Duration, backlog: Backlog) {
        model.observe(at, backlog);
        model.books.observe(&backlog);
        let wait = model.ahead(Priority::Sheddable).wait();
        self.metrics.fleet.set_queue(&model.spec.queue, &backlog, wait);
    }

    /// Chooses the default version of each model, which gets the requests that name no version.
    /// `at` is the time since polling began.
    pub(crate) fn choose_default_versions(&self, at: Duration) {
        for versions in self.all().chunk_by(|a, b| a.spec.queue.model == b.spec.queue.model) {
            let loads = versions.iter().map(|model| model.version_load(at));
            let rate = loads.clone().map(|(_, unnamed)| unnamed).sum();
            let living = loads.zip(versions).filter(|(_, model)| model.is_ready());
            let living: Vec<VersionLoad> = living.map(|((version, _), _)| version).collect();
            let current = versions.iter().find(|model| model.is_default());
            let current = current.map(|model| model.spec.queue.version);
            let chosen = default_version(&living, current, rate);
            for model in versions {
                let QueueName { model: name, version } = &model.spec.queue;
                let is_default = chosen == Some(*version);
                if is_default && current.is_some_and(|current| current != *version) {
                    tracing::info!(model = name, version, "default version changed");
                }
                model.set_default(is_default);
            }
        }
    }

    /// Explains the batch sizes of a model, and the number of workers that its load needs.
    pub(crate) fn explain(&self, model: &Model) -> Explanation {
        let queue = &model.spec.queue;
        let observed = ObservedQueue {
            queue_depth: model.queue_depth(),
            rows_per_second: model.rows_per_second(),
        };
        let workers = self.workers();
        let living = workers.iter().filter(|worker| worker.serves(queue));
        Explanation::of(queue, observed, living.map(|worker| &worker.announcement))
    }

    /// The model's config as its workers announce it; `None` if no worker announces any. Living
    /// workers take precedence.
    pub(crate) fn config(&self, model: &Model) -> Option<serde_json::Value> {
        let queue = &model.spec.queue;
        let workers = self.workers();
        let announced = workers.iter().filter(|worker| worker.announcement.model.queue == *queue);
        let known = announced.filter(|worker| worker.announcement.config.is_some());
        known.max_by_key(|worker| worker.live)?.announcement.config.clone()
    }

    /// Updates the metrics derived from all polls so far.
    pub(crate) fn publish(&self, model: &Model) {
        self.metrics.fleet.set_explanation(&model.spec.queue, &self.explain(model));
        model.books.publish();
    }

    fn snapshot(&self) -> Arc<Models> {
        self.models.read().clone()
    }
}

fn unknown(model: &str, version: Option<u64>) -> Problem {
    let version = version.map_or_else(String::new, |version| format!(" version {version}"));
    Problem::model_not_found(format!("no model {model:?}{version} is known here"))
}

/// No worker can serve a model that is in their repositories.
pub(crate) fn unavailable(model: &str, reason: &str) -> Problem {
    Problem::model_unavailable(format!("no worker can serve model {model:?}: {reason}"))
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Announcement, RequestId, UnavailableModel, WorkerId};
    use prometheus::Registry;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{books::Record, trace::Trace};

    const LOOK: Duration = Duration::from_millis(200);

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
            Self { catalog: Catalog::new(metrics), looks: 0, added: HashMap::new() }
        }

        /// Accepts a request that names no version, and cancels the request immediately.
        fn accept(&self, model: &Model) {
            let mut record = Record::arrive(&self.catalog.metrics, Trace::off());
            record.offered(&model.books, false);
            let seat = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
            record.accepted(RequestId::random(), seat);
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
}
