//! The controller: keeps the fleet of each `ModelFleet` as large as its load needs.
//!
//! [`crd`] is the custom resource, [`objects`] the desired objects of a fleet. Each fleet has a
//! turn every tick (`reconcile`): `observe` reads the fleet's part of a `snapshot` of Redis,
//! `meter` sums up what gateways counted, `decide` is pure, `cluster` applies the objects, `report`
//! makes the status, and `target` says when the batch target is published.

mod app;
mod cluster;
pub mod crd;
mod decide;
mod error;
mod external;
#[cfg(test)]
mod fake;
mod lease;
mod meter;
mod metrics;
pub mod objects;
mod observe;
mod pods;
mod reconcile;
mod report;
#[cfg(test)]
mod sample;
mod settings;
mod snapshot;
mod target;

pub use app::control;
pub use metrics::describe_metrics;
pub use settings::{Command, ControllerSettings};
