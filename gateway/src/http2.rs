//! HTTP/2 connections, which gRPC and the REST API share: what a client may keep open, how long, and how
//! a connection ends without a failed call.

mod ahead;
mod body;
mod calls;
mod client_stream;
mod connection;
mod frames;
mod output;
mod preface;

pub(crate) use self::{
    calls::Call,
    client_stream::ClientStream,
    connection::{Terms, serve},
    preface::Preface,
};
