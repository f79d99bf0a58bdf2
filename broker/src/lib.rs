//! Jobs and replies that gateways and workers exchange, and the brokers that transport them.
//!
//! A gateway submits [`Job`]s to the queue of a model ([`Producer`]) and receives [`Reply`]s
//! ([`Replies`]). A worker claims batches of [`Delivery`]s from its queue ([`Claims`]) and settles
//! each delivery with a reply ([`Consumer`]). Metrics, the model catalogue and the controller read
//! the state of the fleet ([`Observer`]), and the controller publishes N, the maximum rows per
//! batch ([`Controller`]).
//!
//! Each role has two implementations, over Redis ([`redis`]) and inside one process ([`memory`]), and
//! one over several brokers ([`sharded`]). All pass the same contract tests.

pub mod batching;
pub mod ids;
pub mod job;
pub mod memory;
pub mod model;
pub mod offer;
mod queue_policy;
pub mod redis;
pub mod roles;
mod row_shapes;
pub mod sharded;
mod share;
pub mod target;
pub mod tensor;
pub mod throttle;
pub mod trace;
pub mod traffic;
pub mod wire;

pub use batching::{BatchBound, Batching, RecentBatch, Release};
pub use ids::{EntryId, GatewayId, Priority, QueueName, RequestId, ShardId, WorkerId};
pub use job::{ClassCount, Delivery, Failure, Job, Reply, ReplyError, Timing};
pub use model::{
    Announcement, FleetSnapshot, ModelSpec, ObservedWorker, Promise, TensorSpec, UnavailableModel,
};
pub use offer::{Offer, OfferKey, Pushed};
pub use queue_policy::{QueueLimits, QueuePolicy};
pub use roles::{
    Backlog, Broker, BrokerError, BrokerHealth, Claims, Consumer, Controller, GatewayRoles,
    Inbound, Look, Observer, Outage, Producer, Replies, Settlement, ShardMemory,
    TargetSubscription, WorkerRoles,
};
pub use row_shapes::RowShapes;
pub use target::{BatchWish, Guidance, Target, Wish};
pub use tensor::{Datatype, Tensor};
pub use trace::{TraceContext, TraceParent};
pub use traffic::{Traffic, TrafficReport};
