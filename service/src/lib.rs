//! The parts common to all Batchfleet processes: settings, logs, metrics, traces, admin port,
//! signals and drain.
//!
//! Each `main` parses its settings and calls [`run`]. No other code reads flags or environment
//! variables.

mod admin;
mod error;
mod logs;
pub mod metrics;
mod process;
mod readiness;
mod redis;
pub mod settings;
pub mod trace;

pub use admin::AdminPages;
pub use error::InvalidSettings;
pub use logs::{complain, flush as flush_logs};
pub use process::{Process, open_file_limit, run, sentence};
pub use readiness::Readiness;
pub use redis::RedisSettings;
pub use settings::ProcessSettings;
