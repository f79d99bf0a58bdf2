//! Simulates a fleet under load with the decision functions that run in production.
//!
//! [`ArrivalPattern`] generates the arrival times of requests, [`Lengths`] the lengths of their rows,
//! and [`Curve`] gives the duration of a batch. A [`Scenario`] runs both on a fleet in simulated time. A [`Pilot`] makes all decisions,
//! and [`SimulationOutcome`] holds the result. [`PolicyPilot`] decides with `batchfleet_policy`;
//! [`goals`] lists what its decisions must achieve. [`stdio`] serves the same decisions to other
//! simulators.

mod curve;
mod drawing;
mod engine;
mod error;
pub mod goals;
mod lengths;
mod outcome;
mod pilot;
pub mod plan;
mod recorded;
mod report;
mod request;
mod settings;
mod shards;
mod simulate;
pub mod stdio;
mod trace;
mod window;

pub use curve::Curve;
pub use engine::{Order, Pilot, Pull, Scenario};
pub use error::SimulateError;
pub use lengths::Lengths;
pub use outcome::{Interval, SimulationOutcome};
pub use pilot::PolicyPilot;
pub use request::Request;
pub use settings::SimulateSettings;
pub use shards::Sharding;
pub use simulate::simulate;
pub use trace::{ArrivalPattern, Step};
pub use window::Mix;
