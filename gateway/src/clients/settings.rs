//! Settings of access control: who may send requests, and the share of each client.

use std::path::PathBuf;

use batchfleet_broker::Priority;
use batchfleet_service::InvalidSettings;
use clap::Args;

use super::{address::Network, grant, key_file, tokens::TokenSettings};

/// Which clients may send requests, and how many.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientSettings {
    /// A file of API keys; requests without one of them are refused with 401. The file is TOML with a
    /// table `[[keys]]` for each key: `sha256` is the SHA-256 of the key in hex, `name` the name of the
    /// client. Optional fields: `class`, the highest priority class of its requests (critical, default
    /// or sheddable) [default: default]; `rate` and `in_flight`, in place of --client-rate and
    /// --client-in-flight; `models`, a list of the only models it may use; `expires`, a time in UTC
    /// such as 2027-01-31 from which the key is refused. A table with `certificate` in place of
    /// `sha256` holds the fields of a client with that name in its certificate (--tls-client-ca).
    /// Alternatively, the file has a line `SHA256 NAME [class=CLASS] [rate=N] [in-flight=N]
    /// [models=A,B] [expires=TIME]` for each key. Changes take effect within 5 seconds, without a
    /// restart
    #[arg(long, env = "BATCHFLEET_API_KEYS", value_name = "FILE")]
    pub api_keys: Option<PathBuf>,

    /// The most requests per second of one client; more are refused with 429. A burst of one second's
    /// requests is allowed. A client is the name of an API key, token or certificate or, without
    /// access control, an address. 0 for no limit
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

    /// Proxies that are trusted to report the address of a client in X-Forwarded-For: addresses or
    /// networks such as 10.0.0.0/8, separated by commas
    #[arg(long, env = "BATCHFLEET_TRUSTED_PROXIES", value_name = "ADDRS", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,

    /// The highest priority class of requests whose API key, token or certificate names no class, and
    /// of all requests to a gateway without access control: critical, default or sheddable
    #[arg(
        long,
        env = "BATCHFLEET_DEFAULT_CLASS",
        default_value = "default",
        value_name = "CLASS",
        value_parser = class
    )]
    pub default_class: Priority,

    /// The most failed authentications per second of one address, with 10 seconds' worth at once; more
    /// are refused with 429. At ten times this rate, new tokens of the address are not verified. 0 for
    /// no limit
    #[arg(
        long,
        env = "BATCHFLEET_AUTH_FAILURE_RATE",
        default_value_t = 10.0,
        value_name = "N",
        value_parser = rate
    )]
    pub auth_failure_rate: f64,

    /// JSON web tokens.
    #[command(flatten)]
    pub tokens: TokenSettings,
}

impl ClientSettings {
    /// Checks that the file of API keys can be used.
    pub(crate) fn check(&self) -> Result<(), InvalidSettings> {
        if let Some(path) = &self.api_keys {
            key_file::read(path).map(drop).map_err(InvalidSettings::new)?;
        }
        self.tokens.check()
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().and_then(grant::rate);
    rate.ok_or_else(|| "expected a number of at least 0".to_owned())
}

fn class(name: &str) -> Result<Priority, String> {
    grant::class(name).ok_or_else(|| "expected critical, default or sheddable".to_owned())
}
