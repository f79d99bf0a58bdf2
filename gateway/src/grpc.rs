//! The gRPC front: messages and answers. Inference messages are read and written by
//! [`batchfleet_oip::grpc`]; all other calls are served by the generated code of tonic.
//!
//! Inference does not pass through tonic, because tonic allocates what a message announces before it has
//! arrived, decodes a message to many times its size, and copies every tensor of an answer.

mod answer;
mod call;
mod codec;
mod connection;
mod deadline;
mod health;
mod infer;
mod messages;
mod origin;
mod parts;
mod receive;
mod service;
mod span;
mod status;
mod stream;
mod thread;

pub(crate) use self::connection::{GrpcDoor, serve};
