//! The catalogue: the models that workers have announced.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use batchfleet_broker::{
    Backlog, FleetSnapshot, ModelSpec, ObservedWorker, Promise, QueueName, throttle::Throttle,
};
use batchfleet_policy::{VersionLoad, default_version};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::{
    books::ModelBooks,
    explain::{Explanation, ObservedQueue},
    metrics::GatewayMetrics,
    model::Model,
    unavailable::UnavailableModels,
};
use batchfleet_oip::{Problem, names};

/// What proves that a model exists, from weak to strong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// The announcement of a dead worker, or a promise that no longer holds.
    Dead,
    /// A controller's promise.
    Promise,
    /// The announcement of a living worker.
    Living,
}

type Models = HashMap<QueueName, Arc<Model>>;

/// The most models that are known only from workers that are dead. Each costs memory and metrics.
const MOST_UNSERVED: usize = 512;

/// The models that were announced to this gateway. Each request reads the catalogue; only new,
/// changed and forgotten models rewrite it.
#[derive(Debug)]
pub(crate) struct Catalog {
    models: RwLock<Arc<Models>>,
    /// The workers of the last snapshot.
    workers: RwLock<Arc<[ObservedWorker]>>,
    /// Models that workers cannot serve.
    unavailable: UnavailableModels,
    /// Versions that were unloaded. The announcements of their former workers do not bring them back.
    unloaded: RwLock<BTreeSet<QueueName>>,
    /// When each model was last announced or promised.
    announced: Mutex<HashMap<QueueName, Instant>>,
    forget_after: Duration,
    /// Limits the log lines about models beyond [`MOST_UNSERVED`].
    ignored: Mutex<Throttle>,
    metrics: GatewayMetrics,
}

impl Catalog {
    /// An empty catalogue. A model stays known for `forget_after` after the last announcement of it
    /// is gone.
    pub(crate) fn new(metrics: GatewayMetrics, forget_after: Duration) -> Self {
        Self {
            models: RwLock::default(),
            workers: RwLock::default(),
            unavailable: UnavailableModels::default(),
            unloaded: RwLock::default(),
            announced: Mutex::default(),
            forget_after,
            ignored: Mutex::new(Throttle::new(Duration::from_secs(10))),
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
        let may_use = may_use(name);
        found.filter(|_| may_use).cloned().ok_or_else(|| {
            let reason = self.unavailable.reason(name, version).filter(|_| may_use);
            match reason {
                Some(reason) => unavailable(name, &reason),
                None => unknown(name, version, may_use && self.is_unloaded(name, version)),
            }
        })
    }

    /// Whether a version, or without `version` any version, was unloaded.
    fn is_unloaded(&self, model: &str, version: Option<u64>) -> bool {
        let is_it = |queue: &QueueName| {
            queue.model == model && version.is_none_or(|version| version == queue.version)
        };
        self.unloaded.read().iter().any(is_it)
    }

    /// The versions that were unloaded.
    pub(crate) fn unloaded(&self) -> BTreeSet<QueueName> {
        self.unloaded.read().clone()
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
    /// catalogue for a while, even if its announcement is gone because Redis lost its data. Returns
    /// the number of models that were forgotten.
    pub(crate) fn update(&self, fleet: FleetSnapshot) -> usize {
        let fleet = self.without_unloaded(fleet);
        self.add_new(&fleet);
        let forgotten = self.forget_gone(&fleet);
        for (queue, model) in self.snapshot().iter() {
            let living = || fleet.workers.iter().filter(|worker| worker.serves(queue));
            let promise =
                fleet.promises.iter().find(|promise| promise.expected.model.queue == *queue);
            model.update(living().map(|worker| &worker.announcement), promise);
            self.metrics
                .fleet
                .set_workers(&model.spec, living().map(|worker| &worker.announcement));
        }
        self.unavailable.update(&fleet.workers);
        *self.workers.write() = fleet.workers.into();
        forgotten
    }

    /// The workers of the last snapshot.
    pub(crate) fn workers(&self) -> Arc<[ObservedWorker]> {
        self.workers.read().clone()
    }

    /// Leaves out the dead workers of versions that were unloaded. A living worker shows that its
    /// version was loaded again.
    fn without_unloaded(&self, mut fleet: FleetSnapshot) -> FleetSnapshot {
        let mut unloaded = self.unloaded.write();
        if !unloaded.is_empty() {
            let living = fleet.workers.iter().filter(|worker| worker.live);
            for worker in living {
                unloaded.remove(&worker.announcement.model.queue);
            }
            fleet.workers.retain(|worker| !unloaded.contains(&worker.announcement.model.queue));
        }
        fleet
    }

    /// Forgets the versions of a model that no worker serves, because they were unloaded.
    pub(crate) fn forget_unserved(&self, model: &str) {
        let models = self.snapshot();
        let of_model = models.iter().filter(|(queue, _)| queue.model == model);
        let unserved = of_model.filter(|(_, model)| !model.is_ready());
        let gone: HashSet<QueueName> = unserved.map(|(queue, _)| queue.clone()).collect();
        self.unloaded.write().extend(gone.iter().cloned());
        self.remove(&models, &gone);
    }

    /// Adds new models, and replaces models whose spec has changed. The announcement of a living
    /// worker takes precedence over a controller's promise, and a promise over the announcement of
    /// a dead worker. The announcement of a dead worker replaces nothing: the model may have returned
    /// under its name with other inputs.
    fn add_new(&self, fleet: &FleetSnapshot) {
        let promise =
            |promise: &'_ Promise| if promise.holds { Evidence::Promise } else { Evidence::Dead };
        let promised = fleet.promises.iter().map(|made| (&made.expected.model, promise(made)));
        let served = fleet.workers.iter().map(|worker| {
            let evidence = if worker.live { Evidence::Living } else { Evidence::Dead };
            (&worker.announcement.model, evidence)
        });
        let mut specs = HashMap::<&QueueName, (&ModelSpec, Evidence)>::new();
        for (spec, evidence) in promised.chain(served) {
            let known = specs.entry(&spec.queue).or_insert((spec, evidence));
            if evidence > known.1 {
                *known = (spec, evidence);
            }
        }
        let known = self.snapshot();
        let is_new = |(spec, evidence): &(&ModelSpec, Evidence)| match known.get(&spec.queue) {
            None => true,
            Some(model) => *evidence > Evidence::Dead && model.spec != **spec,
        };
        let news: Vec<_> = specs.into_values().filter(is_new).collect();
        if news.is_empty() {
            return;
        }
        let mut models = (*known).clone();
        let mut unserved = models.values().filter(|model| !model.is_available()).count();
        let mut ignored = 0_u64;
        for (spec, evidence) in news {
            let queue = &spec.queue;
            if evidence == Evidence::Dead && !models.contains_key(queue) {
                if unserved >= MOST_UNSERVED {
                    ignored += 1;
                    continue;
                }
                unserved += 1;
            }
            tracing::info!(
                model = queue.model,
                version = queue.version,
                "model added to catalogue"
            );
            let books = ModelBooks::new(queue.clone(), self.metrics.for_model(queue));
            models.insert(queue.clone(), Arc::new(Model::new(spec.clone(), books)));
        }
        *self.models.write() = Arc::new(models);
        if ignored > 0 && self.ignored.lock().admit().is_some() {
            let models = ignored;
            tracing::warn!(models, "ignored models that only dead workers have announced");
        }
    }

    /// Forgets the models that nothing has announced for a while, and their metrics. A model with
    /// requests in flight stays. Returns their number.
    fn forget_gone(&self, fleet: &FleetSnapshot) -> usize {
        let now = Instant::now();
        let mut announced = self.announced.lock();
        let workers = fleet.workers.iter().map(|worker| &worker.announcement.model.queue);
        let promised = fleet.promises.iter().map(|promise| &promise.expected.model.queue);
        for queue in workers.chain(promised) {
            match announced.get_mut(queue) {
                Some(last) => *last = now,
                None => drop(announced.insert(queue.clone(), now)),
            }
        }
        let models = self.snapshot();
        let is_gone = |(queue, model): &(&QueueName, &Arc<Model>)| {
            let last = announced.get(*queue);
            last.is_none_or(|last| now - *last >= self.forget_after) && model.books.in_flight() == 0
        };
        let gone: HashSet<QueueName> =
            models.iter().filter(is_gone).map(|(queue, _)| queue.clone()).collect();
        announced.retain(|_, last| now - *last < self.forget_after);
        drop(announced);
        if gone.is_empty() {
            return 0;
        }
        self.remove(&models, &gone);
        tracing::info!(models = gone.len(), "forgot models that are no longer announced");
        gone.len()
    }

    /// Removes the versions that are `gone` from `models`, and their metrics.
    fn remove(&self, models: &Models, gone: &HashSet<QueueName>) {
        let mut left = models.clone();
        left.retain(|queue, _| !gone.contains(queue));
        let names: HashSet<String> = left.keys().map(|queue| queue.model.clone()).collect();
        *self.models.write() = Arc::new(left);
        self.metrics.forget(gone, &names);
    }

    /// Applies the result of polling a model's queue, and updates the metrics, unless the model was
    /// forgotten after the poll began. `at` is the time since polling began.
    pub(crate) fn observe(&self, model: &Model, at: Duration, backlog: Backlog) {
        if !self.snapshot().contains_key(&model.spec.queue) {
            return;
        }
        model.observe(at, backlog);
        model.books.observe(&backlog);
        let wait = model.ahead_of_all().wait();
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

/// In the words of Triton, which its clients compare.
pub(crate) fn unknown(model: &str, version: Option<u64>, is_unloaded: bool) -> Problem {
    let what = match (version, is_unloaded) {
        (None, false) => "is not found".to_owned(),
        (None, true) => "has no available versions: it was unloaded".to_owned(),
        (Some(version), false) => format!("version {version} is not found"),
        (Some(version), true) => {
            format!("version {version} is not at ready state: it was unloaded")
        }
    };
    Problem::model_not_found(format!("Request for unknown model: '{model}' {what}"))
}

/// No worker can serve a model that is in their repositories.
pub(crate) fn unavailable(model: &str, reason: &str) -> Problem {
    Problem::model_unavailable(format!("no worker can serve model {model:?}: {reason}"))
}

#[cfg(test)]
mod tests;
