//! What a gateway tells about itself and its models, independent of the protocol.

use std::sync::Arc;

use batchfleet_broker::QueueName;
use batchfleet_oip::metadata::{self, IndexEntry};

use crate::{
    api::Api, catalog, clients::Client, error::InferError, model::Model, unavailable::Reasons,
};

/// Why this gateway should receive no requests; `None` if it should.
pub(crate) fn unready(api: &Api) -> Option<String> {
    match api.readiness.get() {
        Ok(_) => {
            let unready = api.core.catalog.unready().filter(|_| api.strict_readiness);
            unready.map(|model| format!("model {model} is not ready"))
        }
        Err(reason) => Some(reason.to_owned()),
    }
}

/// Checks that a worker serves the model.
///
/// # Errors
///
/// No worker serves the model now.
pub(crate) fn ready(api: &Api, model: &Model) -> Result<(), InferError> {
    if model.is_ready() {
        return Ok(());
    }
    let QueueName { model: name, version } = &model.spec.queue;
    Err(match api.core.catalog.unavailable().reason(name, Some(*version)) {
        Some(reason) => catalog::unavailable(name, &reason).into(),
        None => InferError::NoWorkers(name.clone()),
    })
}

/// The config of a model. Older workers do not announce the config.
pub(crate) fn config(api: &Api, model: &Model) -> serde_json::Value {
    let announced = api.core.catalog.config(model);
    announced.unwrap_or_else(|| serde_json::json!(metadata::config(&model.spec)))
}

/// Every model that the client may use.
pub(crate) fn usable(api: &Api, client: &Client) -> Vec<Arc<Model>> {
    let mut models = api.core.catalog.all();
    models.retain(|model| client.may_use(&model.spec.queue.model));
    models
}

/// Every version of the model.
pub(crate) fn versions(api: &Api, model: &Model) -> Vec<Arc<Model>> {
    let mut versions = api.core.catalog.all();
    versions.retain(|version| version.spec.queue.model == model.spec.queue.model);
    versions
}

/// The models that clients may load, without those that have `entries`.
async fn not_loaded(api: &Api, client: &Client, entries: &[IndexEntry]) -> Vec<IndexEntry> {
    let mut available = api.core.models.available().await;
    available.retain(|name| client.may_use(name));
    let mut unloaded = api.core.catalog.unloaded();
    unloaded.retain(|queue| available.contains(&queue.model));
    let is_listed = |name: &String| {
        entries.iter().any(|entry| entry.name() == name)
            || unloaded.iter().any(|queue| queue.model == *name)
    };
    available.retain(|name| !is_listed(name));
    let never =
        available.iter().map(|name| IndexEntry::unavailable(name, None, Some("not loaded")));
    let before = unloaded
        .iter()
        .map(|queue| IndexEntry::unavailable(&queue.model, Some(queue.version), Some("unloaded")));
    never.chain(before).collect()
}

/// The models of the repositories of all workers that the client may use, sorted.
pub(crate) async fn index(api: &Api, client: &Client, only_ready: bool) -> Vec<IndexEntry> {
    let mut reasons = Reasons::clone(&api.core.catalog.unavailable().all());
    reasons.retain(|(model, _), _| client.may_use(model));
    let mut entries = Vec::new();
    for model in usable(api, client) {
        let QueueName { model: name, version } = &model.spec.queue;
        let reason = reasons.remove(&(name.clone(), Some(*version)));
        entries.push(if model.is_ready() {
            IndexEntry::ready(name, *version)
        } else {
            IndexEntry::unavailable(name, Some(*version), reason.as_deref())
        });
    }
    for ((name, version), reason) in &reasons {
        entries.push(IndexEntry::unavailable(name, *version, Some(reason)));
    }
    entries.extend(not_loaded(api, client, &entries).await);
    entries.retain(|entry| entry.is_ready() || !only_ready);
    entries.sort();
    entries
}
