//! The worker over its public face, on the memory broker.

mod echo;
mod fleet;
mod models;
mod onnx;
