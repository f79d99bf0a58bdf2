//! The gateway: Open Inference Protocol v2 over HTTP in, jobs onto the queue of their model, and
//! each answer back to the one caller that asked.
//!
//! A request goes `http` (reads and checks it, with [`batchfleet_oip`]) → `dispatch` (seat, id, queue, wait)
//! and comes back the same way; `catalog` knows the models, learnt from their workers.

mod api;
mod app;
mod ask;
mod body;
mod books;
mod catalog;
mod clients;
mod demand;
mod dispatch;
mod error;
pub mod explain;
mod http;
mod ledger;
mod live;
mod mailbox;
mod metrics;
mod model;
mod observe;
mod offload;
mod outcome;
mod refusal;
mod roster;
mod settings;
mod tally;
mod trace;
mod traffic;
mod watch;

pub use app::{Gateway, StartError};
pub use clients::{ClientSettings, KeysError};
pub use live::LiveControls;
pub use metrics::describe_metrics;
pub use refusal::fleet_refusal_codes;
pub use settings::{GatewaySettings, LivePage, Settings};
