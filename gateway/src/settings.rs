//! Settings of a gateway.

use std::{net::SocketAddr, time::Duration};

use batchfleet_service::{InvalidSettings, ProcessSettings, RedisSettings, settings::duration};
use clap::{Args, Parser, ValueEnum};

use crate::clients::ClientSettings;

/// Serves models over the Open Inference Protocol: requests in over HTTP, onto the queue, and each
/// answer back to the caller that asked
#[derive(Parser, Clone, Debug)]
#[command(name = "batchfleet-gateway", version)]
pub struct Settings {
    /// The gateway's own settings.
    #[command(flatten)]
    pub gateway: GatewaySettings,

    /// Where Redis is.
    #[command(flatten)]
    pub redis: RedisSettings,

    /// Settings of the process.
    #[command(flatten)]
    pub process: ProcessSettings,
}

/// Where the live page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LivePage {
    /// Nowhere.
    Off,
    /// On the admin port, to watch.
    Admin,
    /// There, and on the clients' port, to try the models.
    Everywhere,
}

/// Settings of a gateway, wherever it runs.
#[derive(Args, Clone, Debug)]
pub struct GatewaySettings {
    /// Where clients connect; port 0 takes any free one
    #[arg(long, env = "BATCHFLEET_LISTEN", default_value = "0.0.0.0:8080", value_name = "ADDR")]
    pub listen: SocketAddr,

    /// Threads that serve HTTP [default: one a core]
    #[arg(long, env = "BATCHFLEET_HTTP_THREADS", value_name = "N")]
    pub http_threads: Option<usize>,

    /// How long a request may take from arrival to answer, unless it asks for less
    #[arg(
        long,
        env = "BATCHFLEET_DEADLINE",
        default_value = "30s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub deadline: Duration,

    /// The longest deadline a request may ask for
    #[arg(
        long,
        env = "BATCHFLEET_MAX_DEADLINE",
        default_value = "2m",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub max_deadline: Duration,

    /// How long new requests are still served after the signal to stop, while load balancers learn
    /// that this gateway is going
    #[arg(
        long,
        env = "BATCHFLEET_LAME_DUCK",
        default_value = "5s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub lame_duck: Duration,

    /// The most requests that may be in flight; more are refused with 503
    #[arg(long, env = "BATCHFLEET_MAX_IN_FLIGHT", default_value_t = 16_384, value_name = "N")]
    pub max_in_flight: usize,

    /// The largest request body, in bytes
    #[arg(long, env = "BATCHFLEET_MAX_BODY", default_value_t = 64 << 20, value_name = "BYTES")]
    pub max_body: usize,

    /// The most bytes of request and answer bodies held at a time, those being read included; a
    /// request for which there is no room is refused with 503
    #[arg(
        long,
        env = "BATCHFLEET_MAX_BODY_BYTES_IN_FLIGHT",
        default_value_t = 256 << 20,
        value_name = "BYTES"
    )]
    pub max_body_bytes_in_flight: usize,

    /// How long a body may take to arrive, and a second more for each MiB of it that has
    #[arg(
        long,
        env = "BATCHFLEET_BODY_TIMEOUT",
        default_value = "10s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub body_timeout: Duration,

    /// How long a client may take nothing of its answer before it is cut off (on Linux)
    #[arg(
        long,
        env = "BATCHFLEET_STALL_TIMEOUT",
        default_value = "30s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub stall_timeout: Duration,

    /// How long a connection may wait for its next request. To be longer than any balancer in front
    /// keeps an idle one, which else sends a request into the close (AWS: 60s, Google Cloud: 600s)
    #[arg(
        long,
        env = "BATCHFLEET_KEEP_ALIVE",
        default_value = "75s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub keep_alive: Duration,

    /// Where a page shows batches as they leave: on the admin port only, or at `/` of the clients'
    /// port as well, where one may also try the models
    #[arg(long, env = "BATCHFLEET_LIVE_PAGE", default_value = "admin", value_name = "WHERE")]
    pub live_page: LivePage,

    /// The share of requests that are traced, 0 to 1, of those whose callers do not say with a
    /// `traceparent` header whether they are; of none without --trace-endpoint
    #[arg(
        long,
        env = "BATCHFLEET_TRACE_SAMPLE",
        default_value_t = 0.01,
        value_name = "SHARE",
        value_parser = share
    )]
    pub trace_sample: f64,

    /// Who may ask, and how much.
    #[command(flatten)]
    pub clients: ClientSettings,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0 to 1, such as 0.01".to_owned())
}

impl GatewaySettings {
    /// Checks what clap cannot: settings against each other.
    ///
    /// # Errors
    ///
    /// What to change.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let problem = if self.deadline.is_zero() {
            "--deadline must be longer than 0"
        } else if self.deadline > self.max_deadline {
            "--deadline must not exceed --max-deadline"
        } else if self.max_in_flight == 0 || self.http_threads == Some(0) || self.max_body == 0 {
            "--max-in-flight, --http-threads and --max-body must be at least 1"
        } else if self.max_body > self.max_body_bytes_in_flight {
            "--max-body must not exceed --max-body-bytes-in-flight"
        } else {
            return self.clients.check();
        };
        Err(InvalidSettings::new(problem))
    }
}
