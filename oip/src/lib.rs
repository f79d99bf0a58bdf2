//! The Open Inference Protocol v2 as pure functions: no I/O, no waiting, no state.
//!
//! [`infer::parse`] reads a request body and checks it against the model's
//! [`ModelSpec`](batchfleet_broker::ModelSpec); [`response::encode`] writes the response body. Both
//! are specific to HTTP bodies: JSON, and binary tensors after the JSON. [`grpc`] does the same for the
//! messages of gRPC, and [`v1`] for version 1 of KServe's protocol. The other modules serve any front: [`metadata`] describes the server and its models, [`statistics`] their counts and
//! durations, [`repository`] reads requests to load and unload models, [`names`] checks the names of models and versions, and [`Problem`] is the error for
//! every mistake of a client.

mod binary;
mod data;
mod document;
pub mod grpc;
pub mod infer;
mod json;
pub mod metadata;
pub mod names;
mod number;
mod outputs;
mod parameters;
mod problem;
pub mod repository;
pub mod response;
mod shape;
pub mod statistics;
pub mod v1;

#[cfg(test)]
mod bad_inputs;
#[cfg(test)]
mod bad_tensors;
#[cfg(test)]
mod round_trips;
#[cfg(test)]
mod samples;

pub use problem::Problem;
