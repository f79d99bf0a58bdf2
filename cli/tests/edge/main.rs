//! The edge of a real server: what it does with what no good client sends. B numbers are those of
//! the list of bad inputs; the cases that one request and its answer decide stand in `conformance/`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "the figures they measure")]

mod bodies;
mod clients;
mod compressed;
mod connections;
mod device;
mod framing;
mod memory;
mod server;
