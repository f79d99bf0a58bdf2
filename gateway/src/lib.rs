//! The gateway: accepts requests of the Open Inference Protocol v2 over HTTP and gRPC, submits them as jobs
//! to the queue of their model, and returns each answer to the one caller that asked.
//!
//! A request passes through three modules: `http` or `grpc` reads and checks the request with
//! [`batchfleet_oip`]; `ask` finds the model and keeps the request's record in `books`; `dispatch`
//! admits the request, submits its job and waits for the reply. The answer returns the same way.
//! `catalog` holds the models that workers have announced.

mod access;
mod api;
mod app;
mod ask;
mod availability;
mod body;
mod books;
mod catalog;
mod clients;
mod demand;
mod describe;
mod dispatch;
mod door;
mod error;
pub mod explain;
mod grpc;
mod http;
mod http2;
mod ledger;
mod live;
mod mailbox;
mod memory;
mod metrics;
mod model;
mod model_change;
mod model_control;
mod observe;
mod offload;
mod outcome;
mod outstanding;
mod peers;
mod refusal;
mod refusal_pace;
mod reload;
mod request_cost;
mod roster;
mod server;
mod settings;
mod tally;
mod tensor_port;
mod tls;
mod trace;
mod traffic;
mod unavailable;
mod usage;
mod watch;
mod wishes;

pub use app::{Gateway, StartError};
pub use clients::{ClientSettings, ClientsError, KeysError, TokenSettings};
pub use live::LiveControls;
pub use metrics::describe_metrics;
pub use model_control::{LoadedModel, ModelControl, ModelLoader};
pub use refusal::fleet_refusal_codes;
pub use server::ListenError;
pub use settings::{GatewaySettings, LivePage, Settings};
pub use tls::{TlsError, TlsSettings};
