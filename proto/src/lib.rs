//! The messages and the service of the Open Inference Protocol v2 over gRPC, generated from the files in
//! `proto/`, and their descriptors.

pub use prost::Message;

/// The generated code.
#[expect(missing_docs, reason = "generated code")]
pub mod inference {
    tonic::include_proto!("inference");
}

/// The encoded descriptors of all messages and of the service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
