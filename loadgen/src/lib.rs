//! Closed- and open-loop load that checks every answer.
//!
//! A [`Plan`] says where to, how many users, at which [`Pace`] and how long; its [`Workload`] makes
//! the requests and knows what the answer to each must be. [`run`] carries it out on a thread of
//! its own, one keep-alive connection per user, and returns a [`Report`] in which every request is
//! accounted for: `sent = right + wrong + refused + failed + hung up`.
//!
//! [`Digits`] and [`Echo`] are ready workloads that know their answers; [`Sampled`] makes inputs for
//! any model and learns the answers first. [`infer`] has what others need to speak the Open Inference
//! Protocol.

mod chart;
mod connection;
pub mod digits;
mod echo;
pub mod infer;
pub mod model;
pub mod page;
mod plan;
mod report;
mod run;
mod sampled;
mod schedule;
mod summary;
mod timeline;
mod workload;

pub use connection::Target;
pub use digits::Digits;
pub use echo::Echo;
pub use plan::{Length, LoadError, Pace, Plan, Stop, Watch};
pub use report::{Ending, Entry, Refusal, Report};
pub use run::run;
pub use sampled::Sampled;
pub use summary::Summary;
pub use timeline::Second;
pub use workload::{Answer, Prepared, Workload};
