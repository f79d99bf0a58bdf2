//! Decisions as pure functions of plain data: no I/O, no clock, no async.
//!
//! [`CostModel`] holds what a batch of b rows costs, L(b), as measured; [`BatchPolicy`] turns it
//! and the latency target into N, the most rows a worker claims and runs together. [`admit`] says
//! whether a request can be answered in time, from what waits and how fast it drains
//! ([`DrainRate`]).

mod admission;
mod batch;
mod cost;

pub use admission::{Ahead, DrainRate, Look, admit};
pub use batch::{BatchMode, BatchPolicy};
pub use cost::CostModel;
