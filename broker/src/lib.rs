//! The jobs and replies between gateways and workers, and the brokers that transport them.
//!
//! A gateway submits [`Job`]s to the queue of a model ([`Producer`]) and receives [`Reply`]s
//! ([`Replies`]). A worker of a queue claims batches of [`Delivery`]s ([`Claims`]) and settles each
//! with a reply ([`Consumer`]). Metrics, the model catalogue and the controller read
//! ([`Observer`]), and the controller publishes N ([`Controller`]). The roles exist twice, over
//! Redis ([`redis`]) and inside one process ([`memory`]); one contract suite runs on both.

pub mod batching;
pub mod ids;
pub mod job;
pub mod memory;
pub mod model;
pub mod redis;
pub mod roles;
mod share;
pub mod target;
pub mod tensor;
pub mod trace;
pub mod traffic;
pub mod wire;

pub use batching::{BatchBound, Batching, RecentBatch, Release};
pub use ids::{EntryId, GatewayId, Priority, QueueName, RequestId, ShardId, WorkerId};
pub use job::{Delivery, Failure, Job, Reply, ReplyError, Timing};
pub use model::{Announcement, FleetSnapshot, ModelSpec, ObservedWorker, Promise, TensorSpec};
pub use roles::{
    Backlog, Broker, BrokerError, Claims, Consumer, Controller, GatewayRoles, Inbound, Observer,
    Producer, Replies, Settlement, ShardMemory, TargetSubscription, WorkerRoles,
};
pub use target::{BatchWish, Guidance, Target, Wish};
pub use tensor::{Datatype, Tensor};
pub use trace::{TraceContext, TraceParent};
pub use traffic::{Traffic, TrafficReport};
