//! Settings of a gateway.

use std::{net::SocketAddr, time::Duration};

use batchfleet_service::{
    InvalidSettings, OutageSettings, ProcessSettings, RedisSettings,
    settings::{duration, listen_address},
};
use clap::{ArgAction, Args, Parser, ValueEnum};

use crate::{availability::ReadyWhen, clients::ClientSettings, tls::TlsSettings};

/// The least memory for connections.
const LEAST_CONNECTION_BYTES: usize = 1 << 20;

/// Serves models over the Open Inference Protocol: takes requests over HTTP, puts them into the
/// model's queue in Redis, and returns to each caller the response to its own request
#[derive(Parser, Clone, Debug)]
#[command(name = "batchfleet-gateway", version)]
pub struct Settings {
    /// The gateway's own settings.
    #[command(flatten)]
    pub gateway: GatewaySettings,

    /// The connection to Redis.
    #[command(flatten)]
    pub redis: RedisSettings,

    /// Settings that every process has.
    #[command(flatten)]
    pub process: ProcessSettings,
}

/// Where the live page is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LivePage {
    /// Nowhere.
    Off,
    /// On the admin port, which only shows data.
    Admin,
    /// On the admin port, and on the port for clients, where the page can also send requests.
    Everywhere,
}

/// Settings of a gateway, in a process of its own or in `batchfleet serve`.
#[derive(Args, Clone, Debug)]
pub struct GatewaySettings {
    /// The address for clients; port 0 picks any free port
    #[arg(
        long,
        env = "BATCHFLEET_LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "ADDR",
        value_parser = listen_address
    )]
    pub listen: SocketAddr,

    /// The address for clients that speak gRPC, port 8001 by custom; port 0 picks any free port. TLS and
    /// access control apply as on --listen [default: no gRPC]
    #[arg(
        long,
        env = "BATCHFLEET_GRPC_LISTEN",
        value_name = "ADDR",
        value_parser = listen_address
    )]
    pub grpc_listen: Option<SocketAddr>,

    /// How long a client may keep a gRPC connection, give or take a tenth. It is then told to open a new
    /// one, and calls that are open are answered on the old one. Without an age all clients would stay at
    /// the gateways that they found first, and new gateways would get no calls; 0s for no limit
    #[arg(
        long,
        env = "BATCHFLEET_GRPC_MAX_CONNECTION_AGE",
        default_value = "5m",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub grpc_max_connection_age: Duration,

    /// Also serve version 1 of KServe's protocol on --listen: /v1/models, and
    /// /v1/models/MODEL:predict with instances or inputs
    #[arg(
        long,
        env = "BATCHFLEET_KSERVE_V1",
        default_value_t = false,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub kserve_v1: bool,

    /// Threads that serve HTTP and gRPC [default: one per core]
    #[arg(long, env = "BATCHFLEET_HTTP_THREADS", value_name = "N")]
    pub http_threads: Option<usize>,

    /// How long a request may take from arrival to response, unless it sets its own deadline
    #[arg(
        long,
        env = "BATCHFLEET_DEADLINE",
        default_value = "30s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub deadline: Duration,

    /// The longest deadline that a request may set
    #[arg(
        long,
        env = "BATCHFLEET_MAX_DEADLINE",
        default_value = "2m",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub max_deadline: Duration,

    /// How long the gateway keeps accepting requests after SIGTERM, so that load balancers can remove
    /// it from rotation
    #[arg(
        long,
        env = "BATCHFLEET_LAME_DUCK",
        default_value = "5s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub lame_duck: Duration,

    /// The most requests in flight; more are refused with 503
    #[arg(long, env = "BATCHFLEET_MAX_IN_FLIGHT", default_value_t = 16_384, value_name = "N")]
    pub max_in_flight: usize,

    /// The largest request body, in bytes
    #[arg(long, env = "BATCHFLEET_MAX_BODY", default_value_t = 64 << 20, value_name = "BYTES")]
    pub max_body: usize,

    /// The most bytes of request and response bodies in memory at a time, including bodies being
    /// read; a request whose body does not fit is refused with 503
    #[arg(
        long,
        env = "BATCHFLEET_MAX_BODY_BYTES_IN_FLIGHT",
        default_value_t = 256 << 20,
        value_name = "BYTES"
    )]
    pub max_body_bytes_in_flight: usize,

    /// The address of the port for workers, where they fetch large inputs, which then do not travel
    /// through Redis; port 0 picks any free port. A worker needs a key that only the job contains; the
    /// traffic is not encrypted, so only workers should reach the port [default: all inputs travel
    /// through Redis]
    #[arg(
        long,
        env = "BATCHFLEET_TENSORS_LISTEN",
        value_name = "ADDR",
        value_parser = listen_address
    )]
    pub tensors_listen: Option<SocketAddr>,

    /// The address at which workers reach the port for workers [default: that of --tensors-listen, or,
    /// if that means every network, the address from which this gateway reaches Redis]
    #[arg(long, env = "BATCHFLEET_TENSORS_ADVERTISE", value_name = "IP:PORT")]
    pub tensors_advertise: Option<SocketAddr>,

    /// The least bytes of a request's inputs that workers fetch, if --tensors-listen is set and all
    /// workers of the model fetch inputs
    #[arg(long, env = "BATCHFLEET_FETCH_FROM", default_value_t = 64 << 10, value_name = "BYTES")]
    pub fetch_from: usize,

    /// The most connections of clients; further ones wait to be accepted. Close to the limit, a new
    /// connection replaces the one that has waited longest for a request [default: as many as the
    /// process may open files, less 64]
    #[arg(long, env = "BATCHFLEET_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,

    /// The most connections of one address, or of one IPv6 /64 network; further ones are closed. Does
    /// not apply to --trusted-proxies. 0 for no limit [default: half of --max-connections]
    #[arg(long, env = "BATCHFLEET_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    pub max_connections_per_address: Option<usize>,

    /// The most bytes of request heads, requests in work and unsent answers in memory at a time,
    /// without bodies; what does not fit is refused with 503, and clients that read too slowly are
    /// disconnected
    #[arg(
        long,
        env = "BATCHFLEET_MAX_CONNECTION_BYTES",
        default_value_t = 384 << 20,
        value_name = "BYTES"
    )]
    pub max_connection_bytes: usize,

    /// How long a request body may take to arrive, plus 1 second for each MiB received
    #[arg(
        long,
        env = "BATCHFLEET_BODY_TIMEOUT",
        default_value = "10s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub body_timeout: Duration,

    /// How long a client may read nothing of its response before the connection is closed (Linux
    /// only)
    #[arg(
        long,
        env = "BATCHFLEET_STALL_TIMEOUT",
        default_value = "30s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub stall_timeout: Duration,

    /// How long an idle connection is kept open. Set it longer than the idle timeout of every load
    /// balancer in front (AWS: 60s, Google Cloud: 600s), which otherwise may send a request just as
    /// the gateway closes the connection
    #[arg(
        long,
        env = "BATCHFLEET_KEEP_ALIVE",
        default_value = "75s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub keep_alive: Duration,

    /// Where the live page, which shows batches as they leave, is served: on the admin port, or also
    /// at `/` of the port for clients, where the page can send requests
    #[arg(long, env = "BATCHFLEET_LIVE_PAGE", default_value = "admin", value_name = "WHERE")]
    pub live_page: LivePage,

    /// Answer `/v2/health/ready` with 503 while any model of `/v2/repository/index` is not ready, as
    /// Triton does by default. Load balancers then send no requests for any model
    #[arg(
        long,
        env = "BATCHFLEET_STRICT_READINESS",
        default_value_t = false,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub strict_readiness: bool,

    /// When an outage of Redis makes the gateway not ready.
    #[command(flatten)]
    pub outage: OutageSettings,

    /// Answer /readyz and `/v2/health/ready` with 503 while no worker serves any model, and no
    /// controller promises one
    #[arg(
        long,
        env = "BATCHFLEET_READY_NEEDS_MODEL",
        default_value_t = false,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub ready_needs_model: bool,

    /// How long a model stays known after the last announcement of it is gone from Redis, where
    /// announcements of dead workers stay for an hour. Requests for it then get 404 instead of 503
    #[arg(
        long,
        env = "BATCHFLEET_FORGET_AFTER",
        default_value = "10m",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub forget_after: Duration,

    /// Origins whose web pages may send requests, such as `https://app.example.com`, or `*` for all;
    /// several are separated by commas [default: none]
    #[arg(
        long,
        env = "BATCHFLEET_ALLOW_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin
    )]
    pub allow_origin: Vec<String>,

    /// The fraction of requests to trace, 0 to 1. Applies to requests without a `traceparent` header,
    /// which decides by itself. Has no effect without --trace-endpoint
    #[arg(
        long,
        env = "BATCHFLEET_TRACE_SAMPLE",
        default_value_t = 0.01,
        value_name = "SHARE",
        value_parser = fraction
    )]
    pub trace_sample: f64,

    /// HTTPS on the address for clients.
    #[command(flatten)]
    pub tls: TlsSettings,

    /// The fraction of requests to log, 0 to 1, each with its client, model, status, sizes and times
    #[arg(
        long,
        env = "BATCHFLEET_ACCESS_LOG",
        default_value_t = 0.0,
        value_name = "SHARE",
        value_parser = fraction
    )]
    pub access_log: f64,

    /// The most pairs of client and model whose usage is counted on its own, in the metrics
    /// `batchfleet_gateway_usage_*`; the usage of all others is counted with the client `other`. 0 for
    /// no metrics of usage
    #[arg(long, env = "BATCHFLEET_USAGE_SERIES", default_value_t = 100, value_name = "N")]
    pub usage_series: usize,

    /// Which clients may send requests, and how many.
    #[command(flatten)]
    pub clients: ClientSettings,
}

fn origin(text: &str) -> Result<String, String> {
    let is_origin = text.split_once("://").is_some_and(|(scheme, host)| {
        ["http", "https"].contains(&scheme) && !host.is_empty() && !host.contains('/')
    });
    if text == "*" || is_origin {
        return Ok(text.to_owned());
    }
    Err("expected an origin such as https://app.example.com, or *".to_owned())
}

fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|fraction| (0.0..=1.0).contains(fraction));
    fraction.ok_or_else(|| "expected a fraction from 0 to 1, such as 0.01".to_owned())
}

impl GatewaySettings {
    pub(crate) fn ready_when(&self) -> ReadyWhen {
        let (unready_after, needs_model) = (self.outage.unready_after, self.ready_needs_model);
        ReadyWhen { unready_after, needs_model }
    }

    /// Whether requests need an API key, a token or a client certificate.
    pub fn has_access_control(&self) -> bool {
        let Self { clients, tls, .. } = self;
        clients.api_keys.is_some()
            || clients.tokens.jwt_issuer.is_some()
            || tls.tls_client_ca.is_some()
    }

    /// Checks settings against each other, the TLS files and the file of API keys.
    ///
    /// # Errors
    ///
    /// The setting to change.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let problem = if self.deadline.is_zero() {
            "--deadline must be longer than 0"
        } else if self.deadline > self.max_deadline {
            "--deadline must not exceed --max-deadline"
        } else if self.max_in_flight == 0 || self.http_threads == Some(0) || self.max_body == 0 {
            "--max-in-flight, --http-threads and --max-body must be at least 1"
        } else if self.max_body > self.max_body_bytes_in_flight {
            "--max-body must not exceed --max-body-bytes-in-flight"
        } else if self.max_connections == Some(0)
            || self.max_connection_bytes < LEAST_CONNECTION_BYTES
        {
            "--max-connections must be at least 1, and --max-connection-bytes at least 1 MiB"
        } else if self.tensors_advertise.is_some() && self.tensors_listen.is_none() {
            "--tensors-advertise has no effect without --tensors-listen"
        } else {
            self.tls.check()?;
            return self.clients.check();
        };
        Err(InvalidSettings::new(problem))
    }
}
