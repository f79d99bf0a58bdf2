//! Real servers and programs for tests, started on free ports and stopped on drop.
//!
//! The crate depends on no other crate of the workspace, so that every crate can use it in tests.
//! Programs of this build run as processes.

mod certificates;
mod fleet;
mod program;
mod proxy;
mod redis_cluster;
mod redis_server;
mod token_issuer;
mod watched;

pub use certificates::Certificates;
pub use fleet::{Fleet, FleetPlan, echo_model, get, metric, named_echo_model};
pub use program::{LogReading, Program, ProgramBuilder};
pub use proxy::{CuttingProxy, Weather};
pub use redis_cluster::RedisCluster;
pub use redis_server::RedisServer;
pub use token_issuer::TokenIssuer;
pub use watched::WatchedRedis;
