//! Real servers and real processes for tests: started on free ports, stopped on drop.
//!
//! Nothing here links our own crates, so that every crate may use it; it runs our programs.

mod certificates;
mod fleet;
mod program;
mod proxy;
mod redis_server;
mod watched;

pub use certificates::Certificates;
pub use fleet::{Fleet, FleetPlan, echo_model, get, metric};
pub use program::{Program, ProgramBuilder};
pub use proxy::{CuttingProxy, Weather};
pub use redis_server::RedisServer;
pub use watched::WatchedRedis;
