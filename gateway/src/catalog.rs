//! The models this gateway knows: learnt from the workers that announce themselves.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use batchfleet_broker::{
    Backlog, FleetSnapshot, ModelSpec, ObservedWorker, Priority, Promise, QueueName,
};
use batchfleet_policy::{Version, carrier};

use crate::{
    explain::{Explanation, Seen},
    metrics::GatewayMetrics,
    model::Model,
};
use batchfleet_oip::{Problem, names};

type Models = HashMap<QueueName, Arc<Model>>;

/// Every model this gateway has heard of. Read by each request, rewritten when workers come and go.
#[derive(Debug)]
pub(crate) struct Catalog {
    models: RwLock<Arc<Models>>,
    /// The workers of the last snapshot.
    workers: RwLock<Arc<[ObservedWorker]>>,
    metrics: GatewayMetrics,
}

impl Catalog {
    pub(crate) fn new(metrics: GatewayMetrics) -> Self {
        Self { models: RwLock::default(), workers: RwLock::default(), metrics }
    }

    /// The model a path names, as if there were only those that the caller may use. Without a
    /// version, the greatest by [`rank`](Model::rank).
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
            let version = version.map_or_else(String::new, |version| format!(" version {version}"));
            Problem::model_not_found(format!("no model {name:?}{version} is known here"))
        })
    }

    /// Every version of a model, oldest first.
    pub(crate) fn versions(&self, model: &str) -> Vec<u64> {
        let models = self.snapshot();
        let mut versions: Vec<_> =
            models.keys().filter(|queue| queue.model == model).map(|queue| queue.version).collect();
        versions.sort_unstable();
        versions
    }

    /// Every version of every model, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Model>> {
        let mut models: Vec<_> = self.snapshot().values().cloned().collect();
        models.sort_by(|a, b| a.spec.queue.cmp(&b.spec.queue));
        models
    }

    /// Takes in what workers announce. A model that lost its last worker, or whose announcement is
    /// gone (an emptied Redis), stays known.
    pub(crate) fn update(&self, fleet: FleetSnapshot) {
        self.learn(&fleet);
        for (queue, model) in self.snapshot().iter() {
            let living = || fleet.workers.iter().filter(|worker| worker.serves(queue));
            let promised =
                |promise: &Promise| promise.holds && promise.expected.model.queue == *queue;
            model.hear(
                living().map(|worker| &worker.announcement),
                fleet.promises.iter().any(promised),
            );
            self.metrics.fleet.heard(&model.spec, living().map(|worker| &worker.announcement));
        }
        *self.workers.write().unwrap_or_else(PoisonError::into_inner) = fleet.workers.into();
    }

    /// The workers of the last snapshot.
    pub(crate) fn workers(&self) -> Arc<[ObservedWorker]> {
        self.workers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds models that are new, or new under their name. The announcement of a living worker goes
    /// before a promise, and a promise before the announcement of a dead worker.
    fn learn(&self, fleet: &FleetSnapshot) {
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
            tracing::info!(model = queue.model, version = queue.version, "model learnt");
            let model = Model::new(spec.clone(), self.metrics.for_model(&queue.model));
            models.insert(queue.clone(), Arc::new(model));
        }
        *self.models.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(models);
    }

    /// Takes in a look at a model's queue, and publishes it.
    pub(crate) fn report(&self, model: &Model, at: Duration, backlog: Backlog) {
        model.observe(at, backlog);
        let (queue, metrics) = (&model.spec.queue, &self.metrics);
        metrics.fleet.looked(queue, &backlog, model.ahead(Priority::Sheddable).wait());
        metrics.triton.looked(queue, &backlog, model.metrics.load.in_flight());
    }

    /// Decides which version of each model carries the requests that name none; `at` the clock of the
    /// looks.
    pub(crate) fn elect(&self, at: Duration) {
        for versions in self.all().chunk_by(|a, b| a.spec.queue.model == b.spec.queue.model) {
            let standing = versions.iter().map(|model| model.standing(at));
            let rate = standing.clone().map(|(_, open)| open).sum();
            let living = standing.zip(versions).filter(|(_, model)| model.is_ready());
            let living: Vec<Version> = living.map(|((version, _), _)| version).collect();
            let current = versions.iter().find(|model| model.carries());
            let current = current.map(|model| model.spec.queue.version);
            let chosen = carrier(&living, current, rate);
            for model in versions {
                let QueueName { model: name, version } = &model.spec.queue;
                let carries = chosen == Some(*version);
                if carries && current.is_some_and(|current| current != *version) {
                    tracing::info!(model = name, version, "answers who names no version now");
                }
                model.carry(carries);
            }
        }
    }

    /// Why batches of a model are as large as they are, and what its load wants.
    pub(crate) fn explain(&self, model: &Model) -> Explanation {
        let queue = &model.spec.queue;
        let seen =
            Seen { queue_depth: model.queue_depth(), rows_per_second: model.rows_per_second() };
        let workers = self.workers();
        let living = workers.iter().filter(|worker| worker.serves(queue));
        Explanation::of(queue, seen, living.map(|worker| &worker.announcement))
    }

    /// Publishes what follows from the looks so far.
    pub(crate) fn publish(&self, model: &Model) {
        let queue = &model.spec.queue;
        self.metrics.fleet.explained(queue, &self.explain(model));
        let statistics = model.tally().statistics();
        self.metrics.triton.follow(queue, &model.metrics.told, &statistics);
    }

    fn snapshot(&self) -> Arc<Models> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Announcement, WorkerId};
    use prometheus::Registry;

    use super::*;

    const LOOK: Duration = Duration::from_millis(200);

    /// What so many workers of this version announce, each good for 100 rows per second.
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
        let word = |worker| Announcement::new(WorkerId(first + worker), spec.clone());
        let observed =
            |worker| ObservedWorker::live(Announcement { capacity: 100.0, ..word(worker) });
        (0..workers).map(observed).collect()
    }

    /// A catalogue whose gateway gets every request, and puts those without a version where they go.
    struct Bench {
        catalog: Catalog,
        looks: u32,
        added: HashMap<u64, u64>,
    }

    impl Bench {
        fn new() -> Self {
            let metrics = GatewayMetrics::register(&Registry::new()).unwrap();
            Self { catalog: Catalog::new(metrics), looks: 0, added: HashMap::new() }
        }

        fn carrier(&self) -> u64 {
            self.catalog.find("m", None, |_| true).unwrap().spec.queue.version
        }

        /// A minute in which so many workers of versions 1 and 2 live, and so many requests come five
        /// times a second; the versions they went to, without repetitions.
        fn pass(&mut self, workers: [u128; 2], requests: u64) -> Vec<u64> {
            let snapshot = || FleetSnapshot {
                workers: [self::workers(1, workers[0]), self::workers(2, workers[1])].concat(),
                promises: Vec::new(),
            };
            let mut carriers = Vec::new();
            for _ in 0..300 {
                self.catalog.update(snapshot());
                let carrier = self.catalog.find("m", None, |_| true).unwrap();
                for _ in 0..requests {
                    carrier.asked(false);
                    carrier.accepted();
                }
                carriers.push(self.carrier());
                *self.added.entry(self.carrier()).or_default() += requests;
                let at = LOOK * self.looks;
                for model in self.catalog.all() {
                    let added = self.added.get(&model.spec.queue.version).copied();
                    let added = added.unwrap_or_default();
                    self.catalog.report(&model, at, Backlog { added, ..Backlog::default() });
                }
                self.catalog.elect(at);
                self.looks += 1;
            }
            carriers.dedup();
            carriers
        }
    }

    #[test]
    fn a_new_version_gets_the_load_when_it_can_carry_it_and_never_twice() {
        let mut bench = Bench::new();
        // 210 rows per second: 70 % of what three workers do.
        assert_eq!(bench.pass([3, 0], 42), [1]);
        assert_eq!(bench.pass([3, 1], 42), [1]);
        assert_eq!(bench.pass([3, 2], 42), [1]);
        assert_eq!(bench.pass([3, 3], 42), [1, 2]);
        assert_eq!(bench.pass([0, 3], 42), [2]);
        // One that cannot carry it is all there is.
        assert_eq!(bench.pass([0, 1], 42), [2]);
        assert_eq!(bench.pass([3, 1], 42), [2, 1]);
    }

    #[test]
    fn the_newest_version_answers_when_nothing_was_asked_and_when_the_others_are_gone() {
        let mut bench = Bench::new();
        assert_eq!(bench.pass([1, 1], 0), [2]);
        assert_eq!(bench.pass([1, 0], 1), [1]);
        assert_eq!(bench.pass([0, 1], 90), [2]);
        assert_eq!(bench.pass([0, 0], 0), [2], "it was the last to be there, or the newest");
    }
}
