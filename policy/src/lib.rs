//! Decisions as pure functions of plain data: no I/O, no clock, no async.
//!
//! - [`Climb`] decides which batch sizes a warm-up measures, and [`CostModel`] is L(b), the
//!   measured duration of a batch of b rows.
//! - [`LengthCost`] is u(S), the cost of a row of length S: where rows differ in length, everything
//!   that counts rows counts these units.
//!   [`LengthTimes`] corrects it while the model serves, and [`UsualRow`] is what a row of the usual
//!   length costs, also under full load.
//! - [`companions`] chooses which waiting requests of different lengths run together.
//! - [`BatchPolicy`] chooses N, the most rows that a worker claims and runs together, from the cost
//!   model, the latency target and the load ([`ArrivalRate`], [`Standing`]). [`BatchChoice`]
//!   explains the choice.
//! - [`TransferTime`] is the time of claims by their bytes, from which the worker chooses when to claim
//!   the next batch.
//! - [`FollowUps`] decides how long a free engine waits for requests that follow answers.
//! - [`SizeChange`] is σ, what a change of the size of batches costs, and keeps sizes to avoid it.
//! - [`admit`] decides whether a request can be answered before its deadline, from the outstanding
//!   rows and the [`DrainRate`] of the [`SettledRows`]. [`doomed`] finds waiting requests that can no longer be answered in
//!   time.
//! - [`Scaler`] decides how many workers a fleet needs.
//! - [`Spread`] decides to which of several shards a gateway sends the next job, and
//!   [`shards_in_use`] how many a queue uses.
//! - [`default_version`] decides which version serves requests that do not name a version.

mod admission;
mod batch;
mod climb;
mod compose;
mod cost;
mod default_version;
mod follow_ups;
mod length_times;
mod lengths;
mod rate;
mod scale;
mod settled;
mod size_change;
mod speed;
mod spread;
mod standing;
mod transfer;
mod usual;

pub use admission::{Ahead, DrainRate, DrainSample, admit, doomed};
pub use batch::{BatchChoice, BatchMode, BatchPolicy, Bound, QueueLoad};
pub use climb::{Climb, ClimbEnd};
pub use compose::{LargestBatch, WaitingRows, companions, composed_time};
pub use cost::CostModel;
pub use default_version::{VersionLoad, default_version};
pub use follow_ups::{FollowUpWait, FollowUps};
pub use length_times::{CorrectedCosts, LengthTimes};
pub use lengths::{LengthCost, LengthSample};
pub use rate::ArrivalRate;
pub use scale::{
    Observation, RequestCounts, ScaleBound, ScaleDecision, ScalePolicy, Scaler, UTILIZATION, fewest,
};
pub use settled::{SettledRows, SettledSample};
pub use size_change::SizeChange;
pub use speed::Speed;
pub use spread::{Spread, shards_in_use};
pub use standing::Standing;
pub use transfer::TransferTime;
pub use usual::{ComposedBatch, UsualRow};
