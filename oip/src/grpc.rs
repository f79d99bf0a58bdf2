//! The messages of an inference over gRPC: [`request`] reads them, [`response`] writes them.
//!
//! Both work on the bytes of a message, without the generated types: tensors stay slices of the
//! message, and memory is allocated for what the model takes, never for what a message claims.
//! Decoding all of a message first would need up to a hundred times its size.

mod contents;
mod parameter;
pub mod request;
pub mod response;
#[cfg(test)]
mod tests;
mod wire;
