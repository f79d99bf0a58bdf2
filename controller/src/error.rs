//! Why a turn of a fleet failed.

use std::sync::Arc;

use batchfleet_broker::BrokerError;
use kube::runtime::watcher;

/// Why a turn of a fleet failed. Each of these may pass by itself.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum ControlError {
    /// The API server refused a request or cannot be reached.
    #[error("the API server: {0}")]
    Kubernetes(#[from] kube::Error),
    /// The watch of a kind has failed, so the local copy may be out of date.
    #[error("the watch of {plural}: {source}")]
    #[strum(serialize = "kubernetes")]
    Watch {
        /// The kind.
        plural: String,
        /// Why the watch failed.
        source: Arc<watcher::Error>,
    },
    /// The batch target could not be published.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// An object cannot be written as JSON.
    #[error("an object cannot be written as JSON: {0}")]
    Unwritable(#[from] serde_json::Error),
}

impl ControlError {
    /// The bounded `outcome` label of metrics, and the `code` field of logs.
    pub(crate) fn code(&self) -> &'static str {
        self.into()
    }
}
