//! Settings about clients.

use std::path::PathBuf;

use batchfleet_service::InvalidSettings;
use clap::Args;

use super::{address::Network, read};

/// Who may ask, and how much.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientSettings {
    /// A file of API keys; requests without one of them are refused. A line of it is
    /// `SHA256 NAME [class=CLASS] [rate=N] [in-flight=N] [models=A,B]`: the key's SHA-256 in hex,
    /// the client's name, and what differs for it: the highest class it may ask for (critical,
    /// default or sheddable) [default: default], its own --client-rate and --client-in-flight, the
    /// only models there are for it. Changes are taken over within seconds
    #[arg(long, env = "BATCHFLEET_API_KEYS", value_name = "FILE")]
    pub api_keys: Option<PathBuf>,

    /// The most requests a second of one client (a key's name, else an address), a second's worth
    /// at once; more are refused with 429. 0 for no limit
    #[arg(
        long,
        env = "BATCHFLEET_CLIENT_RATE",
        default_value_t = 0.0,
        value_name = "N",
        value_parser = rate
    )]
    pub client_rate: f64,

    /// The most requests of one client in flight at a time; more are refused with 429. 0 for no
    /// limit
    #[arg(long, env = "BATCHFLEET_CLIENT_IN_FLIGHT", default_value_t = 0, value_name = "N")]
    pub client_in_flight: usize,

    /// Proxies whose word about a client's address (X-Forwarded-For) is taken: addresses or
    /// networks such as 10.0.0.0/8, with commas between
    #[arg(long, env = "BATCHFLEET_TRUSTED_PROXIES", value_name = "ADDRS", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,
}

impl ClientSettings {
    /// Whether the keys can be used.
    pub(crate) fn check(&self) -> Result<(), InvalidSettings> {
        let Some(path) = &self.api_keys else { return Ok(()) };
        read(path).map(drop).map_err(InvalidSettings::new)
    }
}

/// A rate: a number from 0 on.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "expected a number from 0 on".to_owned())
}
