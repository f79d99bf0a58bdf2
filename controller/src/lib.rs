//! The controller: scales the workers of each `ModelFleet` to its load.
//!
//! [`crd`] defines the custom resource, and [`objects`] builds the Kubernetes objects of a fleet.
//! Each fleet is reconciled once per tick, in a turn (`reconcile`): `snapshot` reads Redis for all
//! fleets, `observe` selects the data of one fleet, `meter` adds up the traffic that gateways
//! counted, `decide` chooses the number of workers, `cluster` applies the objects, `problem` finds out
//! why pods do not serve, `refusal` why the API server refuses a request, `report` writes the status, and `target` determines when the batch target
//! must be published. `model_users` keeps the Redis users of the workers.

mod app;
mod certificates;
mod cluster;
pub mod crd;
mod decide;
mod error;
mod external;
#[cfg(test)]
mod fake;
mod late_broker;
mod lease;
mod meter;
mod metrics;
mod model_users;
pub mod objects;
mod observe;
mod pods;
mod problem;
mod reconcile;
mod refusal;
mod report;
#[cfg(test)]
mod sample;
mod scaled_by;
mod secrets;
mod settings;
mod snapshot;
mod target;

pub use app::control;
pub use metrics::describe_metrics;
pub use secrets::{SecretsError, SecretsSettings, make_secrets};
pub use settings::{Command, ControllerSettings, WorkerUser};
