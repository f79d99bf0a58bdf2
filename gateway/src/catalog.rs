//! The models this gateway knows: learnt from the workers that announce themselves.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use batchfleet_broker::{Announcement, Backlog, ModelSpec, QueueName};

use crate::{
    metrics::{GatewayMetrics, ModelMetrics},
    oip::{self, Problem},
    tally::Tally,
};

/// One version of a model, as this gateway serves it.
#[derive(Debug)]
pub(crate) struct Model {
    /// What requests are checked against.
    pub(crate) spec: ModelSpec,
    /// What is counted about it.
    pub(crate) metrics: ModelMetrics,
    tally: Mutex<Tally>,
    live_workers: AtomicUsize,
}

impl Model {
    /// Whether any worker serves it now.
    pub(crate) fn is_ready(&self) -> bool {
        self.live_workers.load(Ordering::Relaxed) > 0
    }

    /// What `/stats` tells: the requests that passed this gateway.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Models = HashMap<QueueName, Arc<Model>>;

/// Every model this gateway has heard of. Read by each request, rewritten when workers come and go.
#[derive(Debug)]
pub(crate) struct Catalog {
    models: RwLock<Arc<Models>>,
    metrics: GatewayMetrics,
}

impl Catalog {
    pub(crate) fn new(metrics: GatewayMetrics) -> Self {
        Self { models: RwLock::default(), metrics }
    }

    /// The model a path names. Without a version: the newest that has workers, else the newest.
    pub(crate) fn find(&self, model: &str, version: Option<&str>) -> Result<Arc<Model>, Problem> {
        let name = oip::names::model(model)?;
        let version = version.map(oip::names::version).transpose()?;
        let models = self.snapshot();
        let found = match version {
            Some(version) => models.get(&QueueName::new(name, version)),
            None => models
                .values()
                .filter(|model| model.spec.queue.model == name)
                .max_by_key(|model| (model.is_ready(), model.spec.queue.version)),
        };
        found.cloned().ok_or_else(|| {
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
        let mut live = HashMap::<QueueName, usize>::new();
        let mut specs = HashMap::new();
        for Announcement { model, live: lives, .. } in announcements {
            *live.entry(model.queue.clone()).or_default() += usize::from(lives);
            // A living worker's word goes before a dead one's.
            if lives || !specs.contains_key(&model.queue) {
                specs.insert(model.queue.clone(), model);
            }
        }
        let known = self.snapshot();
        let news: Vec<_> = specs
            .into_values()
            .filter(|spec| known.get(&spec.queue).is_none_or(|model| model.spec != *spec))
            .collect();
        if !news.is_empty() {
            let mut models = (*known).clone();
            for spec in news {
                tracing::info!(
                    model = spec.queue.model,
                    version = spec.queue.version,
                    "model learnt"
                );
                models.insert(spec.queue.clone(), Arc::new(self.model(spec)));
            }
            *self.models.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(models);
        }
        for (queue, model) in self.snapshot().iter() {
            let workers = live.get(queue).copied().unwrap_or(0);
            model.live_workers.store(workers, Ordering::Relaxed);
            let workers = i64::try_from(workers).unwrap_or(i64::MAX);
            self.metrics.workers.with_label_values(&labels(queue)).set(workers);
        }
    }

    /// Publishes what stands in a queue.
    pub(crate) fn report(&self, queue: &QueueName, backlog: Backlog) {
        let labels = labels(queue);
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.queue_depth.with_label_values(&labels).set(gauge(backlog.waiting));
        self.metrics.queue_in_flight.with_label_values(&labels).set(gauge(backlog.in_flight));
        self.metrics
            .queue_oldest_age
            .with_label_values(&labels)
            .set(backlog.oldest_age.as_secs_f64());
    }

    fn model(&self, spec: ModelSpec) -> Model {
        Model {
            metrics: self.metrics.for_model(&spec.queue.model),
            tally: Mutex::default(),
            live_workers: AtomicUsize::new(0),
            spec,
        }
    }

    fn snapshot(&self) -> Arc<Models> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn labels(queue: &QueueName) -> [String; 2] {
    [queue.model.clone(), queue.version.to_string()]
}
