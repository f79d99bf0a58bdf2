//! The controller: keeps one fleet of workers per `ModelFleet`, as large as its load needs.
//!
//! [`crd`] is what a person asks for, [`objects`] what should stand in the cluster for it. Each tick
//! a fleet has its turn (`reconcile`): `observe` what Redis knows, `meter` what gateways counted,
//! `decide` (pure), apply what should stand (`cluster`), `tell` the workers, `report`.

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
mod tell;

pub use app::control;
pub use metrics::describe_metrics;
pub use settings::{Command, ControllerSettings};
