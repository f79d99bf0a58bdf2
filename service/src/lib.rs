//! What every Batchfleet process has: settings, logs, metrics, an admin port, signals and drain.
//!
//! A `main` parses its settings and hands over to [`run`]; all else receives values.

mod admin;
mod logs;
pub mod metrics;
mod process;
mod readiness;
mod redis;
pub mod settings;
pub mod trace;

pub use admin::AdminPages;
pub use process::{Process, run, sentence};
pub use readiness::Readiness;
pub use redis::RedisSettings;
pub use settings::{InvalidSettings, ProcessSettings};
