//! Why a fleet could not be brought to where it should be.

use batchfleet_broker::BrokerError;

/// Why a fleet could not be brought to where it should be. All of it may pass by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The API server refused, or is out of reach.
    #[error("the API server: {0}")]
    Kubernetes(#[from] kube::Error),
    /// N could not be published.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// An object has no form that Kubernetes understands.
    #[error("an object cannot be written: {0}")]
    Unwritable(#[from] serde_json::Error),
}

impl ControlError {
    /// Every [`code`](Self::code).
    pub(crate) const CODES: [&str; 3] = ["kubernetes", "broker", "unwritable"];

    /// The bounded label of metrics, and the field of logs.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Kubernetes(_) => "kubernetes",
            Self::Broker(_) => "broker",
            Self::Unwritable(_) => "unwritable",
        }
    }
}
