//! Decisions as pure functions of plain data: no I/O, no clock, no async.
//!
//! [`CostModel`] holds what a batch of b rows costs, L(b), as measured; [`BatchPolicy`] turns it,
//! the latency target and the load ([`ArrivalRate`]) into N, the most rows a worker claims and runs
//! together, and says why in a [`Choice`]. [`admit`] says whether a request can be answered in time,
//! from what waits and how fast it drains ([`DrainRate`]), and [`doomed`] which of those that wait
//! cannot any more. A [`Scaler`] says how many workers a fleet needs, and [`carrier`] which version of
//! a model answers those who name none.

mod admission;
mod batch;
mod cost;
mod rate;
mod rollout;
mod scale;
mod speed;

pub use admission::{Ahead, DrainRate, Look, admit, doomed};
pub use batch::{BatchMode, BatchPolicy, Bound, Choice, Demand};
pub use cost::CostModel;
pub use rate::ArrivalRate;
pub use rollout::{Version, carrier};
pub use scale::{
    Counts, Observation, ScaleBound, ScaleDecision, ScalePolicy, Scaler, UTILIZATION, fewest,
};
pub use speed::Speed;
