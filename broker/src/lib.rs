//! What travels between gateways and workers, and how.
//!
//! A gateway is a [`Producer`]: it submits [`Job`]s to the queue of a model and receives
//! [`Reply`]s. A worker is a [`Consumer`] of one queue: it claims batches of [`Delivery`]s and
//! settles each with a reply. Whoever only looks (metrics, the model catalogue, the controller) is
//! an [`Observer`], and whoever tells workers what N to
//! use is a [`Controller`]. The roles exist twice, over Redis ([`redis`]) and inside one process
//! ([`memory`]); one contract suite holds both to the same promises.

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
pub use ids::{EntryId, GatewayId, Priority, QueueName, RequestId, WorkerId};
pub use job::{Delivery, Failure, Job, Reply, ReplyError, Timing};
pub use model::{Announcement, FleetSnapshot, ModelSpec, ObservedWorker, Promise, TensorSpec};
pub use roles::{
    Backlog, Broker, BrokerError, Consumer, Controller, Inbound, Observer, Producer, Settlement,
};
pub use target::{BatchWish, Guidance, Target, Wish};
pub use tensor::{Datatype, Tensor};
pub use trace::{TraceContext, TraceParent};
pub use traffic::{Traffic, TrafficReport};
