//! The parts common to all Batchfleet processes: settings, logs, metrics, traces, admin port,
//! signals and drain.
//!
//! Each `main` parses its settings and calls [`run`]. No other code reads flags or environment
//! variables.

mod admin;
mod complaint;
mod error;
mod liveness;
mod logs;
mod memory;
pub mod metrics;
mod outage;
mod process;
mod readiness;
mod redis;
pub mod settings;
mod tasks;
mod throttle;
pub mod trace;
mod variables;

pub use admin::AdminPages;
pub use complaint::complain;
pub use error::InvalidSettings;
pub use liveness::Liveness;
pub use logs::flush as flush_logs;
pub use outage::{OutageSettings, follow_outages};
pub use process::{Process, open_file_limit, run, sentence};
pub use readiness::Readiness;
pub use redis::RedisSettings;
pub use settings::ProcessSettings;
pub use tasks::{EXIT_TASK, LongTasks, TaskEnded};
pub use throttle::LogThrottle;
