//! Models that workers found in their repositories but cannot serve, with the reasons.

use std::{collections::BTreeMap, sync::Arc};

use batchfleet_broker::{ObservedWorker, UnavailableModel};
use parking_lot::RwLock;

/// The reasons by model and version; the version is `None` if the reason concerns no single one.
pub(crate) type Reasons = BTreeMap<(String, Option<u64>), String>;

/// The reasons that the living workers announce, and those of models that could not be loaded.
#[derive(Debug, Default)]
pub(crate) struct UnavailableModels {
    reasons: RwLock<Arc<Reasons>>,
    /// The models that could not be loaded at the request of a client.
    failed: RwLock<BTreeMap<String, String>>,
}

impl UnavailableModels {
    /// Records why a model could not be loaded.
    pub(crate) fn failed(&self, model: &str, reason: &str) {
        self.failed.write().insert(model.to_owned(), reason.to_owned());
    }

    /// Forgets why a model could not be loaded, because it was loaded or unloaded.
    pub(crate) fn loaded(&self, model: &str) {
        self.failed.write().remove(model);
    }

    /// Replaces the reasons by those of these workers.
    pub(crate) fn update(&self, workers: &[ObservedWorker]) {
        let living = workers.iter().filter(|worker| worker.live);
        let announced = living.flat_map(|worker| &worker.announcement.unavailable);
        let entry = |UnavailableModel { model, version, reason }: &UnavailableModel| {
            ((model.clone(), *version), reason.clone())
        };
        let reasons: Reasons = announced.map(entry).collect();
        if **self.reasons.read() != reasons {
            *self.reasons.write() = Arc::new(reasons);
        }
    }

    /// All reasons, sorted by model and version.
    pub(crate) fn all(&self) -> Arc<Reasons> {
        let mut reasons = self.reasons.read().clone();
        let failed = self.failed.read();
        if !failed.is_empty() {
            let failed = failed.iter().map(|(model, why)| ((model.clone(), None), why.clone()));
            Arc::make_mut(&mut reasons).extend(failed);
        }
        reasons
    }

    /// Why no worker serves a model, if a worker gives a reason: for this version or for the whole
    /// model, or without `version` for the newest version that has a reason.
    pub(crate) fn reason(&self, model: &str, version: Option<u64>) -> Option<String> {
        let reasons = self.all();
        let newest = || {
            let mut of_model = reasons.iter().filter(|((name, _), _)| name == model);
            of_model.next_back().map(|(_, reason)| reason)
        };
        let of = |version| reasons.get(&(model.to_owned(), version));
        let reason = match version {
            Some(version) => of(Some(version)).or_else(|| of(None)),
            None => newest(),
        };
        reason.cloned()
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Announcement, ModelSpec, QueueName, WorkerId};

    use super::*;

    fn worker(number: u128, unavailable: &[(&str, Option<u64>, &str)]) -> Announcement {
        let model = ModelSpec {
            queue: QueueName::new("good", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let unavailable = unavailable.iter().map(|(model, version, reason)| UnavailableModel {
            model: (*model).to_owned(),
            version: *version,
            reason: (*reason).to_owned(),
        });
        Announcement {
            unavailable: unavailable.collect(),
            ..Announcement::new(WorkerId(number), model)
        }
    }

    #[test]
    fn the_reason_is_that_of_the_version_or_of_the_whole_model() {
        let models = UnavailableModels::default();
        let announced = [("a", Some(1), "old"), ("a", Some(2), "new"), ("b", None, "config")];
        models.update(&[
            ObservedWorker::live(worker(1, &announced)),
            ObservedWorker::dead(worker(2, &[("c", None, "dead")])),
        ]);
        for (model, version, reason) in [
            ("a", Some(1), Some("old")),
            ("a", None, Some("new")),
            ("a", Some(3), None),
            ("b", Some(7), Some("config")),
            ("b", None, Some("config")),
            ("c", None, None),
        ] {
            assert_eq!(models.reason(model, version).as_deref(), reason, "{model} {version:?}");
        }
        models.update(&[ObservedWorker::live(worker(1, &[]))]);
        assert!(models.all().is_empty());
    }

    #[test]
    fn a_failed_load_is_a_reason_until_the_model_is_loaded() {
        let models = UnavailableModels::default();
        models.failed("d", "broken");
        models.update(&[ObservedWorker::live(worker(1, &[("a", Some(1), "old")]))]);
        assert_eq!(models.reason("d", Some(1)).as_deref(), Some("broken"));
        assert_eq!(models.all().len(), 2);
        models.loaded("d");
        assert_eq!(models.reason("d", None), None);
    }
}
