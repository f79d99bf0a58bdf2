//! Commands that the trial itself sends to Redis.

use std::{ops, time::Duration};

use anyhow::{Context, Result};
use redis::{FromRedisValue, Value, aio::MultiplexedConnection};
use tokio::time::timeout;

/// Timeout of a command; a stopped Redis never answers.
const LIMIT: Duration = Duration::from_secs(5);

/// A client of the fleet's Redis. Each command opens a new connection, because faults cut old ones.
#[derive(Clone)]
pub(crate) struct Control {
    url: String,
}

/// Totals of all request streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queues {
    pub(crate) entries: u64,
    pub(crate) pending: u64,
}

impl ops::Add for Queues {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let Self { entries, pending } = self;
        Self { entries: entries + other.entries, pending: pending + other.pending }
    }
}

impl Control {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// Runs a command; `words` are its name and arguments.
    pub(crate) async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        let asked = async {
            let mut connection = self.connection().await?;
            let mut command = redis::cmd(words[0]);
            words[1..].iter().for_each(|word| {
                command.arg(word);
            });
            command.query_async(&mut connection).await
        };
        let asked: redis::RedisResult<T> = timeout(LIMIT, asked).await.context("no answer")?;
        asked.with_context(|| words.join(" "))
    }

    /// Opens a connection for several commands.
    pub(crate) async fn connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(self.url.as_str())?;
        client.get_multiplexed_async_connection().await
    }

    /// The value of a field of `INFO`.
    pub(crate) async fn info(&self, field: &str) -> Result<String> {
        let info: String = self.ask(&["INFO"]).await?;
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(name, _)| *name == field);
        Ok(found.next().with_context(|| format!("no {field} in INFO"))?.1.to_owned())
    }

    /// The request streams: those with a consumer group.
    pub(crate) async fn streams(&self) -> Result<Vec<String>> {
        let scan = ["SCAN", "0", "MATCH", "bf:*", "COUNT", "100000", "TYPE", "stream"];
        let (_, keys): (Value, Vec<String>) = self.ask(&scan).await?;
        let mut streams = Vec::new();
        for key in keys {
            let groups: Vec<Value> = self.ask(&["XINFO", "GROUPS", &key]).await?;
            if !groups.is_empty() {
                streams.push(key);
            }
        }
        Ok(streams)
    }

    /// The entries and pending entries of all request streams.
    pub(crate) async fn queues(&self) -> Result<Queues> {
        let mut queues = Queues::default();
        for stream in self.streams().await? {
            queues.entries += self.ask::<u64>(&["XLEN", &stream]).await?;
            let groups: Vec<Vec<(String, Value)>> = self.ask(&["XINFO", "GROUPS", &stream]).await?;
            for (_, pending) in groups.into_iter().flatten().filter(|(name, _)| name == "pending") {
                queues.pending += u64::from_redis_value(pending)?;
            }
        }
        Ok(queues)
    }

    /// The process id of redis-server.
    pub(crate) async fn process_id(&self) -> Result<u32> {
        Ok(self.info("process_id").await?.parse()?)
    }
}
