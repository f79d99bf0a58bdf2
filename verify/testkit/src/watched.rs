//! A Redis with a replica, and a sentinel that promotes the replica when the master fails.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{sleep, timeout};

use crate::RedisServer;

/// Timeout of discovery and of a failover.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A master, its replica and a sentinel that watches both.
pub struct WatchedRedis {
    /// The first master.
    pub master: RedisServer,
    /// The first master's replica.
    pub replica: RedisServer,
    /// The sentinel, which calls the master `main`.
    pub sentinel: RedisServer,
}

impl WatchedRedis {
    /// Starts all three servers, and waits until the sentinel is able to promote the replica.
    ///
    /// # Errors
    /// If the servers do not discover each other.
    ///
    /// # Panics
    /// If redis-server is not installed, or a server does not start.
    pub async fn start() -> Result<Self> {
        let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]).await;
        let port = master.address().port().to_string();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
        until_answer(&replica, "INFO", "master_link_status:up").await?;
        let sentinel = RedisServer::start_sentinel(master.address(), &[]).await;
        until_answer(&sentinel, "SENTINEL REPLICAS main", "role-reported\r\n$5\r\nslave").await?;
        until_answer(&sentinel, "SENTINEL REPLICAS main", "master-link-status\r\n$2\r\nok").await?;
        Ok(Self { master, replica, sentinel })
    }

    /// The URL with which clients find the master, through the sentinel.
    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/main", self.sentinel.address())
    }

    /// Promotes the replica while the old master runs. The sentinel demotes the old master seconds
    /// later. Until then the old master accepts writes.
    ///
    /// # Errors
    /// If the replica does not become the master.
    pub async fn fail_over(&self) -> Result<()> {
        until_answer(&self.sentinel, "SENTINEL FAILOVER main", "+OK").await?;
        until_answer(&self.replica, "ROLE", "master").await
    }
}

/// Repeats a command until the answer contains `text`. A server closes its connections when it changes
/// its role, also without an answer.
async fn until_answer(server: &RedisServer, command: &str, text: &str) -> Result<()> {
    let answered = async {
        while !server.ask(command).await.is_ok_and(|answer| answer.contains(text)) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(START_LIMIT, answered).await.with_context(|| format!("{command}: never {text:?}"))
}
