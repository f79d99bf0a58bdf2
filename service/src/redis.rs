//! Settings of the connection to Redis.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use batchfleet_broker::{
    Broker, BrokerError,
    redis::{RedisAddress, RedisBroker, urls_in},
    sharded::ShardedBroker,
};
use clap::Args;
use futures_util::future::try_join_all;
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;

use crate::InvalidSettings;

/// How long a program that starts waits for further Redises after one has answered. As long as an outage
/// after which workers leave a Redis.
const LATE: Duration = Duration::from_secs(2);

/// The address of Redis, as a flag or in a file.
#[derive(Args, Clone, Debug)]
pub struct RedisSettings {
    /// URL of the Redis with the queues, such as `redis://user:password@host:6379/0`; `rediss://`
    /// for TLS; `redis+sentinel://user:password@host:26379,host:26379/master` to find the master
    /// through sentinels; `redis+cluster://user:password@host:6379,host:6379/?partitions=4` for a
    /// cluster, over whose nodes the partitions of each queue are spread. Several, repeated or
    /// separated by spaces, spread each queue over independent Redises: the same URLs in the same
    /// order for every program, an older fleet's Redis first
    #[arg(
        long,
        env = "BATCHFLEET_REDIS_URL",
        default_value = "redis://127.0.0.1:6379/0",
        hide_env_values = true,
        conflicts_with = "redis_url_file",
        value_delimiter = ' ',
        value_name = "URL"
    )]
    pub redis_url: Vec<String>,

    /// A file that contains only the URL, or several, one a line, to keep the password out of the
    /// environment. Read again for every new connection, so that a new password needs no restart
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
    /// Returns the address of the only Redis, from the flag or the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, if an address or certificate is invalid, or if there are several
    /// Redises. Errors contain no password.
    pub fn address(&self) -> Result<RedisAddress, InvalidSettings> {
        match <[RedisAddress; 1]>::try_from(self.addresses()?) {
            Ok([address]) if address.is_of_cluster() => {
                Err(InvalidSettings::new("not possible with a Redis cluster"))
            }
            Ok([address]) => Ok(address),
            Err(_) => Err(InvalidSettings::new("only possible with a single --redis-url")),
        }
    }

    /// Returns the address of each Redis, and of each partition of a cluster.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or if an address or certificate is invalid. Errors contain no
    /// password.
    pub fn addresses(&self) -> Result<Vec<RedisAddress>, InvalidSettings> {
        let given = self.unchecked_addresses();
        if given.len() > 1 && given.iter().any(RedisAddress::is_of_cluster) {
            return Err(InvalidSettings::new(
                "a Redis cluster must be the only --redis-url: its partitions spread each queue",
            ));
        }
        let addresses: Vec<_> = given.iter().flat_map(RedisAddress::partitions).collect();
        for (index, address) in addresses.iter().enumerate() {
            RedisBroker::check(address).map_err(|error| match addresses.len() {
                1 => InvalidSettings::new(error),
                all => InvalidSettings::new(format!("URL {} of {all}: {error}", index + 1)),
            })?;
        }
        Ok(addresses)
    }

    /// Connects to Redis, and retries until Redis is reachable. Of several Redises, one is enough, and a
    /// worker uses one for each `workers_per_shard` workers of its queue. Returns `None` if the shutdown
    /// begins first.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] if retries cannot help, and errors returned by Redis.
    pub async fn connect(
        &self,
        shutdown: &CancellationToken,
        workers_per_shard: NonZeroUsize,
    ) -> anyhow::Result<Option<Arc<dyn Broker>>> {
        let connecting = connect_all(self.addresses()?, workers_per_shard);
        match shutdown.run_until_cancelled(connecting).await {
            None => Ok(None),
            Some(Err(error @ (BrokerError::Misconfigured(_) | BrokerError::Denied(_)))) => {
                Err(InvalidSettings::new(error).into())
            }
            Some(broker) => Ok(Some(broker?)),
        }
    }

    /// Returns the URLs, from the flag or the file, separated by spaces.
    ///
    /// # Errors
    ///
    /// If the file cannot be read. Errors do not contain the content of the file.
    pub fn urls(&self) -> Result<String, InvalidSettings> {
        let urls: Result<Vec<_>, _> =
            self.unchecked_addresses().iter().map(RedisAddress::current_url).collect();
        Ok(urls.map_err(InvalidSettings::new)?.join(" "))
    }

    fn unchecked_addresses(&self) -> Vec<RedisAddress> {
        let address = RedisAddress {
            url_file: self.redis_url_file.clone(),
            ca: self.redis_ca.clone(),
            identity: self.redis_cert.clone().zip(self.redis_key.clone()),
            ..RedisAddress::default()
        };
        let of_file = |position| RedisAddress { position, ..address.clone() };
        let of_flag = |url: &String| RedisAddress { url: url.clone(), ..address.clone() };
        match &self.redis_url_file {
            Some(file) => (0..urls_in(file)).map(of_file).collect(),
            None => self.redis_url.iter().map(of_flag).collect(),
        }
    }
}

/// Connects to each Redis, all at the same time. Once one has answered, the others have [`LATE`] left:
/// the rest is taken into use when it answers.
async fn connect_all(
    addresses: Vec<RedisAddress>,
    workers_per_shard: NonZeroUsize,
) -> Result<Arc<dyn Broker>, BrokerError> {
    let one_answers = CancellationToken::new();
    let connecting = addresses.into_iter().map(|address| async {
        let enough = async {
            one_answers.cancelled().await;
            sleep(LATE).await;
        };
        let broker = RedisBroker::connect_or_go_on(address, enough).await?;
        one_answers.cancel();
        Ok::<_, BrokerError>((broker.name(), broker))
    });
    let brokers = try_join_all(connecting).await?;
    let mut brokers: Vec<(String, Arc<dyn Broker>)> =
        brokers.into_iter().map(|(name, broker)| (name, Arc::new(broker) as _)).collect();
    if brokers.len() == 1
        && let Some((_, only)) = brokers.pop()
    {
        return Ok(only);
    }
    Ok(Arc::new(ShardedBroker::new(brokers, workers_per_shard.get()).await?))
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
            settings.redis.urls().map_err(|error| error.to_string())
        };
        assert!(url().unwrap_err().starts_with("--redis-url-file /"));
        fs::write(&path, "redis://worker:secret@redis:6379/0\n").unwrap();
        assert_eq!(url().unwrap(), "redis://worker:secret@redis:6379/0");
        fs::write(&path, "\n").unwrap();
        assert!(url().unwrap_err().contains("the file is empty"));
    }

    #[test]
    fn a_file_may_contain_the_urls_of_several_redises() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let flags = ["x", "--redis-url-file", path.to_str().unwrap()];
        let settings = || Settings::try_parse_from(flags).unwrap().redis;
        fs::write(&path, "redis://w:secret@a:1\nredis://w:secret@b:2\n").unwrap();
        assert_eq!(settings().urls().unwrap(), "redis://w:secret@a:1 redis://w:secret@b:2");
        let addresses = settings().addresses().unwrap();
        assert!(settings().address().err().unwrap().to_string().contains("single --redis-url"));
        // A new password of both; then one URL is missing.
        fs::write(&path, "redis://w:new@a:1\nredis://w:new@b:2\n").unwrap();
        assert_eq!(addresses[1].current_url().unwrap(), "redis://w:new@b:2");
        fs::write(&path, "redis://w:secret@a:1\n").unwrap();
        let error = addresses[1].current_url().unwrap_err().to_string();
        assert!(error.contains("no URL number 2") && !error.contains("secret"), "{error}");
        fs::write(&path, "redis://w:secret@a:1\nhttp://w:secret@b").unwrap();
        let error = settings().addresses().err().unwrap().to_string();
        assert!(error.starts_with("URL 2 of 2: not a Redis URL"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn several_urls_are_several_redises() {
        for flags in [
            &["x", "--redis-url", "redis://a:1", "--redis-url", "redis://b:2"][..],
            &["x", "--redis-url", "redis://a:1 redis://b:2"],
        ] {
            let settings = Settings::try_parse_from(flags).unwrap().redis;
            let urls: Vec<_> =
                settings.addresses().unwrap().into_iter().map(|address| address.url).collect();
            assert_eq!(urls, ["redis://a:1", "redis://b:2"]);
            assert_eq!(settings.urls().unwrap(), "redis://a:1 redis://b:2");
            assert!(settings.address().err().unwrap().to_string().contains("single --redis-url"));
        }
    }

    #[test]
    fn a_cluster_has_an_address_for_each_partition_and_stands_alone() {
        let settings = |flags: &[&str]| Settings::try_parse_from(flags).unwrap().redis;
        let url = "redis+cluster://a,b/?partitions=3";
        let cluster = settings(&["x", "--redis-url", url]);
        let partitions: Vec<_> =
            cluster.addresses().unwrap().iter().map(|address| address.partition).collect();
        assert_eq!((partitions, cluster.urls().unwrap()), (vec![0, 1, 2], url.to_owned()));
        let refused = |settings: &RedisSettings| settings.address().err().unwrap().to_string();
        assert!(refused(&cluster).contains("single --redis-url"));
        let one = settings(&["x", "--redis-url", "redis+cluster://a"]);
        assert!(refused(&one).contains("not possible with a Redis cluster"));
        let mixed = settings(&["x", "--redis-url", url, "--redis-url", "redis://c"]);
        let error = mixed.addresses().err().unwrap().to_string();
        assert!(error.contains("the only --redis-url"), "{error}");
    }

    #[test]
    fn a_redis_url_and_a_file_with_one_are_rejected() {
        let line = complaint(&["x", "--redis-url", "redis://a:1", "--redis-url-file", "/b"]);
        assert!(line.contains("cannot be used with"), "{line}");
    }
}
