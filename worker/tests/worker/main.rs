//! The worker through its public interface, on the memory broker.

mod echo;
mod fleet;
mod models;
mod onnx;
mod proof;
mod repository;
mod requests;
