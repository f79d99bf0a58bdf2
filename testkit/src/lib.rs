//! Real servers and real processes for tests: started on free ports, stopped on drop.
//!
//! Nothing here knows our own crates, so that every crate may use it.

mod program;
mod proxy;
mod redis_server;

pub use program::{Program, ProgramBuilder};
pub use proxy::CuttingProxy;
pub use redis_server::RedisServer;
