//! A Redis with a replica, and a sentinel that promotes it when need be.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{sleep, timeout};

use crate::RedisServer;

/// How long it may take until each knows the others.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A master, its replica and a sentinel of both.
pub struct WatchedRedis {
    /// The master at first.
    pub master: RedisServer,
    /// Its replica, in step with it.
    pub replica: RedisServer,
    /// The sentinel, to which the master is `main`.
    pub sentinel: RedisServer,
}

impl WatchedRedis {
    /// Starts all three; the replica can be promoted when this returns.
    ///
    /// # Errors
    /// If they do not find each other.
    ///
    /// # Panics
    /// If there is no redis-server, or one does not start.
    pub async fn start() -> Result<Self> {
        let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]).await;
        let port = master.address().port().to_string();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
        says(&replica, "INFO", "master_link_status:up").await?;
        let sentinel = RedisServer::start_sentinel(master.address(), &[]).await;
        says(&sentinel, "SENTINEL REPLICAS main", "role-reported\r\n$5\r\nslave").await?;
        says(&sentinel, "SENTINEL REPLICAS main", "master-link-status\r\n$2\r\nok").await?;
        Ok(Self { master, replica, sentinel })
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/main", self.sentinel.address())
    }

    /// Makes the replica the master, while both live. The old master learns of it seconds later, and
    /// serves on until then.
    ///
    /// # Errors
    /// If it does not happen.
    pub async fn fail_over(&self) -> Result<()> {
        says(&self.sentinel, "SENTINEL FAILOVER main", "+OK").await?;
        says(&self.replica, "ROLE", "master").await
    }
}

/// Asks until the answer has this in it.
async fn says(server: &RedisServer, command: &str, what: &str) -> Result<()> {
    let said = async {
        while !server.ask(command).await?.contains(what) {
            sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    timeout(START_LIMIT, said).await.with_context(|| format!("{command}: never {what:?}"))?
}
