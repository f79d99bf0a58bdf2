//! What the page shows, as JSON: one model at a time, and what is new about it.

use actix_web::{HttpRequest, HttpResponse, web::Query};
use batchfleet_broker::TensorSpec;
use serde::{Deserialize, Serialize};

use super::{
    Door, client, fresh,
    play::Offer,
    watch::{Ran, Sample, Series},
};
use crate::{
    catalog::Catalog,
    error::InferError,
    explain::{Explanation, Seen},
    http::Api,
    model::Model,
};
use batchfleet_oip::Problem;

/// What a page asks for.
#[derive(Debug, Deserialize)]
struct Wanted {
    /// The model it shows; without one, the first there is.
    model: Option<String>,
    version: Option<u64>,
    /// The last batch it has seen.
    #[serde(default)]
    batches: u64,
    /// The last sample it has seen.
    #[serde(default)]
    samples: u64,
}

/// What a page shows.
#[derive(Serialize)]
struct Feed {
    /// Another one, and all numbers begin anew.
    boot: String,
    /// What there is to choose from.
    models: Vec<Name>,
    /// What is wrong, if anything is.
    trouble: Option<Trouble>,
    /// Whether requests may be sent from where this was asked.
    may_ask: bool,
    /// The clients' port, if there is a page that may.
    clients_port: Option<u16>,
    /// What may be tried out, and is.
    play: Option<Offer>,
    /// The model asked for.
    shown: Option<Shown>,
}

#[derive(Serialize)]
struct Name {
    model: String,
    version: u64,
}

/// A state in which requests are not answered as they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Trouble {
    /// No worker has announced any model.
    NoModels,
    /// The model asked for is not known.
    NoSuchModel,
    /// No worker serves it now.
    NoWorkers,
    /// The queue is out of reach.
    QueueAway,
    /// This gateway is about to end.
    Draining,
}

#[derive(Serialize)]
struct Shown {
    inputs: Vec<TensorSpec>,
    in_flight: i64,
    batching: Explanation,
    batches: Series<Ran>,
    samples: Series<Sample>,
}

/// `GET /page/feed?model=NAME&version=N&batches=N&samples=N`
pub(super) fn answer(
    api: &Api,
    door: Door,
    request: &HttpRequest,
) -> Result<HttpResponse, InferError> {
    let wanted = Query::<Wanted>::from_query(request.query_string())
        .map_err(|error| Problem::bad("bad_parameter", error.to_string()))?;
    let client = client(api, door, request)?;
    let mut models = api.catalog.all();
    models.retain(|model| {
        client.as_ref().is_none_or(|client| client.may_use(&model.spec.queue.model))
    });
    let model = models.iter().find(|model| wanted.is(model));
    Ok(fresh(Feed {
        boot: api.live.boot.to_string(),
        models: models
            .iter()
            .map(|model| &model.spec.queue)
            .map(|queue| Name { model: queue.model.clone(), version: queue.version })
            .collect(),
        trouble: trouble(api, models.is_empty(), model.map(AsRef::as_ref)),
        may_ask: door == Door::Clients,
        clients_port: api.live.clients_port(),
        play: api.live.desk.offer(door, request),
        shown: model.map(|model| Shown::of(&api.catalog, model, &wanted)),
    }))
}

impl Wanted {
    fn is(&self, model: &Model) -> bool {
        let queue = &model.spec.queue;
        self.model.as_ref().is_none_or(|name| *name == queue.model)
            && self.version.is_none_or(|version| version == queue.version)
    }
}

impl Shown {
    fn of(catalog: &Catalog, model: &Model, wanted: &Wanted) -> Self {
        let workers = catalog.workers();
        let queue = &model.spec.queue;
        let living = workers.iter().filter(|worker| worker.serves(queue));
        let seen =
            Seen { queue_depth: model.queue_depth(), rows_per_second: model.rows_per_second() };
        let (batches, samples) = model.watch.look(wanted.batches, wanted.samples);
        Self {
            inputs: model.spec.inputs.clone(),
            in_flight: model.metrics.in_flight(),
            batching: Explanation::of(queue, seen, living.map(|worker| &worker.announcement)),
            batches,
            samples,
        }
    }
}

/// What is wrong, the worst first.
fn trouble(api: &Api, no_models: bool, model: Option<&Model>) -> Option<Trouble> {
    if api.readiness.get().is_err() {
        Some(Trouble::Draining)
    } else if !api.dispatcher.is_reachable() {
        Some(Trouble::QueueAway)
    } else if no_models {
        Some(Trouble::NoModels)
    } else {
        match model {
            None => Some(Trouble::NoSuchModel),
            Some(model) if !model.is_ready() => Some(Trouble::NoWorkers),
            Some(_) => None,
        }
    }
}
