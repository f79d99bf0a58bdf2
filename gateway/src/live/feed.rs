//! The data of the live page, as JSON: one model at a time, without the batches and samples that
//! the page already has.

use actix_web::{HttpRequest, HttpResponse, web::Query};
use batchfleet_broker::TensorSpec;
use batchfleet_oip::Problem;
use serde::{Deserialize, Serialize};

use super::{controls::Offer, local::is_local, response::fresh, state::Port};
use crate::{
    api::Api,
    catalog::Catalog,
    clients::Client,
    error::InferError,
    explain::Explanation,
    model::Model,
    watch::{Ran, Series, WatchSample},
};

/// The parameters of a request for the feed.
#[derive(Debug, Deserialize)]
struct Parameters {
    /// The model to show; the first in the catalogue if absent.
    model: Option<String>,
    version: Option<u64>,
    /// The number of the last batch that the page has.
    #[serde(default)]
    batches: u64,
    /// The number of the last sample that the page has.
    #[serde(default)]
    samples: u64,
}

#[derive(Serialize)]
struct Feed {
    /// Identifies this run of the gateway: batches and samples are numbered anew in each run.
    boot: String,
    /// The models that the page may show.
    models: Vec<Name>,
    trouble: Option<Trouble>,
    /// Whether the page may send inference requests to the server it was loaded from.
    may_ask: bool,
    /// The port whose page may send requests, if open.
    clients_port: Option<u16>,
    /// `http` or `https`, for the port for clients.
    clients_scheme: &'static str,
    /// The live controls, if this page may set them.
    #[serde(rename = "play")]
    controls: Option<Offer>,
    /// The model to show.
    shown: Option<Shown>,
}

#[derive(Serialize)]
struct Name {
    model: String,
    version: u64,
}

/// The reason why requests are not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Trouble {
    /// No worker has announced a model.
    NoModels,
    /// The requested model is unknown.
    NoSuchModel,
    /// No worker serves the model now.
    NoWorkers,
    /// The gateway cannot reach Redis.
    QueueAway,
    /// The gateway is shutting down.
    Draining,
}

#[derive(Serialize)]
struct Shown {
    inputs: Vec<TensorSpec>,
    in_flight: i64,
    batching: Explanation,
    batches: Series<Ran>,
    samples: Series<WatchSample>,
}

/// Handles `GET /page/feed?model=NAME&version=N&batches=N&samples=N`.
pub(super) fn answer(
    api: &Api,
    port: Port,
    request: &HttpRequest,
) -> Result<HttpResponse, InferError> {
    let wanted = Query::<Parameters>::from_query(request.query_string())
        .map_err(|error| Problem::bad("bad_parameter", error.to_string()))?;
    let client = client(api, port, request)?;
    let mut models = api.core.catalog.all();
    models.retain(|model| {
        client.as_ref().is_none_or(|client| client.may_use(&model.spec.queue.model))
    });
    let model = models.iter().find(|model| wanted.is_for(model));
    Ok(fresh(Feed {
        boot: api.live.boot.to_string(),
        models: models
            .iter()
            .map(|model| &model.spec.queue)
            .map(|queue| Name { model: queue.model.clone(), version: queue.version })
            .collect(),
        trouble: trouble(api, models.is_empty(), model.map(AsRef::as_ref)),
        may_ask: port == Port::Clients,
        clients_port: api.live.clients_port(),
        clients_scheme: api.live.clients_scheme(),
        controls: api.live.controls.offer().filter(|_| port == Port::Clients && is_local(request)),
        shown: model.map(|model| Shown::of(&api.core.catalog, model, &wanted)),
    }))
}

/// The client of the request; `None` on the admin port, which may show every model because the
/// metrics on the same port name every model, too.
fn client(api: &Api, port: Port, request: &HttpRequest) -> Result<Option<Client>, InferError> {
    match port {
        Port::Admin => Ok(None),
        Port::Clients => api.core.clients.identify(request).map(Some),
    }
}

impl Parameters {
    fn is_for(&self, model: &Model) -> bool {
        let queue = &model.spec.queue;
        self.model.as_ref().is_none_or(|name| *name == queue.model)
            && self.version.is_none_or(|version| version == queue.version)
    }
}

impl Shown {
    fn of(catalog: &Catalog, model: &Model, wanted: &Parameters) -> Self {
        let (batches, samples) = model.books.look(wanted.batches, wanted.samples);
        Self {
            inputs: model.spec.inputs.clone(),
            in_flight: model.books.in_flight(),
            batching: catalog.explain(model),
            batches,
            samples,
        }
    }
}

/// The most severe reason why requests are not served.
fn trouble(api: &Api, no_models: bool, model: Option<&Model>) -> Option<Trouble> {
    if api.readiness.get().is_err() {
        Some(Trouble::Draining)
    } else if !api.core.dispatcher.is_reachable() {
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
