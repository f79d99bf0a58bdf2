//! Replays loads through the very functions that decide in production, in simulated time.
//!
//! [`Load`] says when requests arrive, [`Curve`] what a batch costs; a [`Scenario`] plays both on a
//! fleet whose every decision a [`Pilot`] takes, and tells the [`Outcome`]. [`Ours`] is the pilot that
//! asks `batchfleet_policy`. [`goals`] says what it must reach. [`stdio`] lends the same decisions to
//! other simulators.

mod curve;
mod engine;
mod error;
pub mod goals;
mod outcome;
mod pilot;
pub mod plan;
mod recorded;
mod report;
mod settings;
mod simulate;
pub mod stdio;
mod svg;
mod trace;

pub use curve::Curve;
pub use engine::{Order, Pilot, Pull, Scenario};
pub use error::SimulateError;
pub use outcome::{Outcome, Part};
pub use pilot::Ours;
pub use settings::SimulateSettings;
pub use simulate::simulate;
pub use trace::{Load, Step};
