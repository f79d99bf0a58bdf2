//! Errors of a fleet's turn.

use std::{error::Error, sync::Arc};

use batchfleet_broker::BrokerError;
use kube::runtime::watcher;

/// The reason why a fleet's turn failed. Every error may be temporary, so the turn is retried.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum ControlError {
    /// The API server refused a request or could not be reached.
    #[error("the API server: {0}")]
    Kubernetes(#[from] kube::Error),
    /// The watch of a kind failed, so the local copy may be out of date.
    #[error("the watch of {plural}: {source}")]
    #[strum(serialize = "kubernetes")]
    Watch {
        /// The kind, in the plural.
        plural: String,
        /// The cause.
        source: Arc<watcher::Error>,
    },
    /// The API server did not take a write.
    #[error("the API server did not take the {what}: {source}")]
    #[strum(serialize = "kubernetes")]
    Write {
        /// The object, such as `Deployment`.
        what: String,
        /// The cause.
        source: Arc<kube::Error>,
    },
    /// The batch target could not be published.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// An object could not be serialized as JSON.
    #[error("an object cannot be written as JSON: {0}")]
    Unwritable(#[from] serde_json::Error),
}

impl ControlError {
    /// Returns the `outcome` label of metrics and the `code` field of logs.
    pub(crate) fn code(&self) -> &'static str {
        self.into()
    }

    /// Returns the cause in the words of the API server, else those of the innermost error.
    pub(crate) fn cause(&self) -> String {
        let mut cause: &(dyn Error + 'static) = match self {
            Self::Kubernetes(source) => source,
            Self::Write { source, .. } => &**source,
            Self::Watch { source, .. } => match &**source {
                watcher::Error::WatchError(refusal) => return refusal.message.clone(),
                source => source,
            },
            other => other,
        };
        loop {
            if let Some(kube::Error::Api(refusal)) = cause.downcast_ref() {
                return refusal.message.clone();
            }
            match cause.source() {
                Some(source) => cause = source,
                None => return cause.to_string(),
            }
        }
    }
}
