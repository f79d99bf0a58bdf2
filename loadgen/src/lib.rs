//! Closed- and open-loop load that checks every answer.
//!
//! A [`Plan`] says where to, how many users, at which [`Pace`] and how long; its [`Workload`] makes
//! the requests and knows what the answer to each must be. [`run`] carries it out on a thread of
//! its own, one keep-alive connection per user, and returns a [`Report`] in which every request is
//! accounted for: `sent = right + wrong + refused + failed + hung up`.
//!
//! [`Digits`] and [`Echo`] are ready workloads; [`infer`] has what others need to speak the Open
//! Inference Protocol.

mod connection;
pub mod digits;
mod echo;
pub mod infer;
mod plan;
mod report;
mod run;
mod schedule;
mod workload;

pub use connection::Target;
pub use digits::Digits;
pub use echo::Echo;
pub use plan::{Length, LoadError, Pace, Plan, Stop};
pub use report::{Ending, Entry, Refusal, Report};
pub use run::run;
pub use workload::{Answer, Prepared, Workload};
