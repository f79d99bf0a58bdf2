//! The models of a repository that a worker cannot serve.
//!
//! By default a worker serves the other models. Gateways learn from its announcement which models
//! are missing, and why.

use batchfleet_broker::UnavailableModel;
use tracing::error;

use crate::error::WorkerError;

/// Maximum number of characters of a reason in an announcement, which is renewed every second.
const REASON: usize = 600;

/// The models that cannot be served so far.
#[derive(Debug)]
pub(crate) struct Unserved {
    /// Whether the first such model ends the worker.
    strict: bool,
    models: Vec<(UnavailableModel, WorkerError)>,
}

impl Unserved {
    pub(crate) fn new(strict: bool) -> Self {
        Self { strict, models: Vec::new() }
    }

    /// Adds a model; `version` is `None` if the error does not concern one version.
    ///
    /// # Errors
    ///
    /// The given error, if the worker must end.
    pub(crate) fn add(
        &mut self,
        model: String,
        version: Option<u64>,
        error: WorkerError,
    ) -> Result<(), WorkerError> {
        if self.strict || !error.is_of_model() {
            return Err(error);
        }
        let reason = error.to_string().chars().take(REASON).collect();
        self.models.push((UnavailableModel { model, version, reason }, error));
        Ok(())
    }

    /// Logs the models, and returns them for the announcement. `serves_others` is whether the worker
    /// serves another model.
    ///
    /// # Errors
    ///
    /// The worker has no model to serve.
    pub(crate) fn announced(
        self,
        serves_others: bool,
    ) -> Result<Vec<UnavailableModel>, WorkerError> {
        if serves_others {
            for (UnavailableModel { model, version, .. }, error) in &self.models {
                error!(model, version, %error, "this model cannot be served: serving the others");
            }
            return Ok(self.models.into_iter().map(|(model, _)| model).collect());
        }
        let mut errors: Vec<_> = self.models.into_iter().map(|(_, error)| error).collect();
        match errors.len() {
            0 => Ok(Vec::new()),
            1 => Err(errors.remove(0)),
            _ => Err(WorkerError::NoModel(errors)),
        }
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::QueueName;
    use batchfleet_service::InvalidSettings;

    use super::*;

    fn error(name: &str) -> WorkerError {
        WorkerError::Settings(InvalidSettings::new(name))
    }

    fn unserved(strict: bool, names: &[&str]) -> Unserved {
        let mut unserved = Unserved::new(strict);
        for name in names {
            unserved.add((*name).to_owned(), Some(1), error(name)).unwrap();
        }
        unserved
    }

    #[test]
    fn bad_models_are_announced_beside_good_ones() {
        let announced = unserved(false, &["a", "b"]).announced(true).unwrap();
        let reason = |name: &str| UnavailableModel {
            model: name.to_owned(),
            version: Some(1),
            reason: name.to_owned(),
        };
        assert_eq!(announced, [reason("a"), reason("b")]);
    }

    #[test]
    fn a_worker_without_a_good_model_ends_with_every_reason() {
        assert_eq!(unserved(false, &[]).announced(false).unwrap(), []);
        let only = unserved(false, &["a"]).announced(false).unwrap_err();
        assert_eq!(only.to_string(), "a");
        let both = unserved(false, &["a", "b"]).announced(false).unwrap_err();
        assert_eq!(both.to_string(), "no model can be served: a; b");
        assert!(both.is_settings());
    }

    #[test]
    fn a_strict_worker_and_a_broken_device_end_at_once() {
        assert!(Unserved::new(true).add("a".to_owned(), None, error("a")).is_err());
        let crashed = || WorkerError::EngineGone(QueueName::new("a", 1));
        assert!(Unserved::new(false).add("a".to_owned(), None, crashed()).is_ok());
        let missing = || WorkerError::Thread(std::io::Error::other("none left"));
        assert!(Unserved::new(false).add("a".to_owned(), None, missing()).is_err());
    }
}
