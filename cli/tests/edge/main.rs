//! The reaction of `batchfleet serve` to input that correct clients do not send. The numbers B01 to
//! B68 are those of the list of bad inputs. Cases of a single request are tested in
//! `verify/conformance/`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "prints the measured figures")]

mod bodies;
mod clients;
mod compressed;
mod connections;
mod device;
mod drain;
mod framing;
mod logs;
mod memory;
mod server;
mod unusual;
