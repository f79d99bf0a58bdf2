//! Settings of the connection to Redis.

use std::path::PathBuf;

use batchfleet_broker::{
    BrokerError,
    redis::{RedisAddress, RedisBroker},
};
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::InvalidSettings;

/// The address of Redis, as a flag or in a file.
#[derive(Args, Clone, Debug)]
pub struct RedisSettings {
    /// URL of the Redis with the queues, such as `redis://user:password@host:6379/0`; `rediss://`
    /// for TLS; `redis+sentinel://user:password@host:26379,host:26379/master` to find the master
    /// through sentinels
    #[arg(
        long,
        env = "BATCHFLEET_REDIS_URL",
        default_value = "redis://127.0.0.1:6379/0",
        hide_env_values = true,
        conflicts_with = "redis_url_file",
        value_name = "URL"
    )]
    pub redis_url: String,

    /// A file that contains only the URL, to keep the password out of the environment. Read again for
    /// every new connection, so that a new password needs no restart
    #[arg(long, env = "BATCHFLEET_REDIS_URL_FILE", value_name = "FILE")]
    pub redis_url_file: Option<PathBuf>,

    /// PEM file with the CA certificates that Redis' certificate is verified with [default: the
    /// system's]
    #[arg(long, env = "BATCHFLEET_REDIS_CA", value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,

    /// PEM file with the client certificate, for a Redis that requires one
    #[arg(long, env = "BATCHFLEET_REDIS_CERT", requires = "redis_key", value_name = "FILE")]
    pub redis_cert: Option<PathBuf>,

    /// PEM file with the key of the client certificate
    #[arg(long, env = "BATCHFLEET_REDIS_KEY", requires = "redis_cert", value_name = "FILE")]
    pub redis_key: Option<PathBuf>,
}

impl RedisSettings {
    /// Returns the address of Redis, from the flag or the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or if an address or certificate is invalid. Errors contain no
    /// password.
    pub fn address(&self) -> Result<RedisAddress, InvalidSettings> {
        let address = self.unchecked_address();
        RedisBroker::check(&address).map_err(InvalidSettings::new)?;
        Ok(address)
    }

    /// Connects to Redis, and retries until Redis is reachable. Returns `None` if the shutdown
    /// begins first.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] if retries cannot help, and errors returned by Redis.
    pub async fn connect(
        &self,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<RedisBroker>> {
        let connecting = RedisBroker::connect(self.address()?);
        match shutdown.run_until_cancelled(connecting).await {
            None => Ok(None),
            Some(Err(error @ (BrokerError::Misconfigured(_) | BrokerError::Denied(_)))) => {
                Err(InvalidSettings::new(error).into())
            }
            Some(broker) => Ok(Some(broker?)),
        }
    }

    /// Returns the URL, from the flag or the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read. Errors do not contain the content of the file.
    pub fn url(&self) -> Result<String, InvalidSettings> {
        self.unchecked_address().current_url().map_err(InvalidSettings::new)
    }

    fn unchecked_address(&self) -> RedisAddress {
        RedisAddress {
            url: self.redis_url.clone(),
            url_file: self.redis_url_file.clone(),
            ca: self.redis_ca.clone(),
            identity: self.redis_cert.clone().zip(self.redis_key.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Settings {
        #[command(flatten)]
        redis: RedisSettings,
    }

    fn complaint(flags: &[&str]) -> String {
        let error = Settings::try_parse_from(flags).unwrap_err();
        error.render().to_string()
    }

    #[test]
    fn the_redis_url_is_read_from_a_file_without_the_newline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let url = || {
            let file = path.to_str().unwrap();
            let settings = Settings::try_parse_from(["x", "--redis-url-file", file]).unwrap();
            settings.redis.url().map_err(|error| error.to_string())
        };
        assert!(url().unwrap_err().starts_with("--redis-url-file /"));
        fs::write(&path, "redis://worker:secret@redis:6379/0\n").unwrap();
        assert_eq!(url().unwrap(), "redis://worker:secret@redis:6379/0");
        for wrong in ["\n", "redis://a:secret@b:1\nredis://a:secret@b:2"] {
            fs::write(&path, wrong).unwrap();
            assert!(!url().unwrap_err().contains("secret"));
        }
    }

    #[test]
    fn a_redis_url_and_a_file_with_one_are_rejected() {
        let line = complaint(&["x", "--redis-url", "redis://a:1", "--redis-url-file", "/b"]);
        assert!(line.contains("cannot be used with"), "{line}");
    }
}
