//! Closed- and open-loop load that checks every answer.
//!
//! A [`LoadPlan`] holds the targets, the number of users, their [`Pace`] and the length of a run;
//! its [`Workload`] makes the requests and checks the answers. [`run`] executes the plan on a
//! thread of its own, with one keep-alive connection per user, and returns a [`Report`] that
//! accounts for every request: `sent = right + wrong + refused + failed + hung up`.
//!
//! [`Digits`] and [`Echo`] are workloads whose answers are known in advance; [`Sampled`] makes
//! inputs for any model and learns the answers before the run, and [`sentences`] does this for text
//! encoders. [`infer`] is a client of the Open
//! Inference Protocol for other workloads.

pub mod chart;
mod connection;
pub mod digits;
mod echo;
mod ending;
mod error;
mod grpc;
mod http2;
pub mod infer;
mod latency;
pub mod model;
pub mod page;
mod plan;
mod report;
mod run;
mod sampled;
mod schedule;
pub mod sentences;
mod summary;
mod tensors;
mod timeline;
mod tls;
mod workload;

pub use connection::Target;
pub use digits::Digits;
pub use echo::Echo;
pub use ending::{Ending, Entry, Refusal};
pub use error::LoadError;
pub use plan::{Length, LoadPlan, Pace, Stop, Watch};
pub use report::Report;
pub use run::run;
pub use sampled::Sampled;
pub use summary::Summary;
pub use timeline::Second;
pub use tls::TlsTrust;
pub use workload::{HttpAnswer, Prepared, Workload};
