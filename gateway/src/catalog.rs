//! The models this gateway knows: learnt from the workers that announce themselves.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use batchfleet_broker::{Announcement, Backlog, ModelSpec, Priority, QueueName};

use crate::{
    explain::{Explanation, Seen},
    metrics::GatewayMetrics,
    model::Model,
    oip::{self, Problem},
};

type Models = HashMap<QueueName, Arc<Model>>;

/// Every model this gateway has heard of. Read by each request, rewritten when workers come and go.
#[derive(Debug)]
pub(crate) struct Catalog {
    models: RwLock<Arc<Models>>,
    /// What was announced last.
    words: RwLock<Arc<[Announcement]>>,
    metrics: GatewayMetrics,
}

impl Catalog {
    pub(crate) fn new(metrics: GatewayMetrics) -> Self {
        Self { models: RwLock::default(), words: RwLock::default(), metrics }
    }

    /// The model a path names, as if there were only those that the caller may use. Without a
    /// version: the newest that has workers, else the newest that will, else the newest.
    pub(crate) fn find(
        &self,
        model: &str,
        version: Option<&str>,
        may_use: impl Fn(&str) -> bool,
    ) -> Result<Arc<Model>, Problem> {
        let name = oip::names::model(model)?;
        let version = version.map(oip::names::version).transpose()?;
        let models = self.snapshot();
        let found =
            match version {
                Some(version) => models.get(&QueueName::new(name, version)),
                None => models.values().filter(|model| model.spec.queue.model == name).max_by_key(
                    |model| (model.is_ready(), model.is_wakeful(), model.spec.queue.version),
                ),
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
    pub(crate) fn update(&self, announcements: Vec<Announcement>) {
        self.learn(&announcements);
        for (queue, model) in self.snapshot().iter() {
            let words = || announcements.iter().filter(|word| word.model.queue == *queue);
            model.hear(words());
            self.metrics.fleet.heard(&model.spec, words().filter(|word| word.live));
        }
        *self.words.write().unwrap_or_else(PoisonError::into_inner) = announcements.into();
    }

    /// What everybody announced last.
    pub(crate) fn words(&self) -> Arc<[Announcement]> {
        self.words.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds models that are new, or new under their name. A living worker's word goes before a dead
    /// one's.
    fn learn(&self, announcements: &[Announcement]) {
        let mut specs = HashMap::<&QueueName, &Announcement>::new();
        for word in announcements {
            let known = specs.entry(&word.model.queue).or_insert(word);
            if word.live && !known.live {
                *known = word;
            }
        }
        let known = self.snapshot();
        let news: Vec<&ModelSpec> = specs
            .into_values()
            .map(|word| &word.model)
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

    /// Why batches of a model are as large as they are, and what its load wants.
    pub(crate) fn explain(&self, model: &Model) -> Explanation {
        let queue = &model.spec.queue;
        let seen =
            Seen { queue_depth: model.queue_depth(), rows_per_second: model.rows_per_second() };
        let words = self.words();
        let living = words.iter().filter(|word| word.live && word.model.queue == *queue);
        Explanation::of(queue, seen, living)
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
