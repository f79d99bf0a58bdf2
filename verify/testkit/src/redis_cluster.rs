//! A real Redis Cluster for one test.

use std::{mem, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use crate::redis_server::{RedisServer, free_address};

/// Timeout until all nodes agree, long enough for a busy machine. Redis waits for two seconds.
const AGREEMENT_LIMIT: Duration = Duration::from_secs(30);
/// How long a node must be silent before it counts as down.
const NODE_TIMEOUT: &str = "2000";
/// The number of slots.
const SLOTS: usize = 16384;

/// A cluster of masters, each perhaps with a replica, without persistence.
pub struct RedisCluster {
    masters: Vec<RedisServer>,
    /// One for each master, or none.
    replicas: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts masters that share the slots evenly, and waits until they agree.
    ///
    /// # Panics
    /// If redis-server is not installed, or the cluster does not start.
    #[expect(clippy::panic, reason = "a test cannot go on without its servers")]
    pub async fn start(masters: usize) -> Self {
        match Self::try_start(masters, false).await {
            Ok(cluster) => cluster,
            Err(error) => panic!("no cluster for this test: {error:#}"),
        }
    }

    /// Like [`start`](Self::start), with a replica for each master.
    ///
    /// # Panics
    /// If redis-server is not installed, or the cluster does not start.
    #[expect(clippy::panic, reason = "a test cannot go on without its servers")]
    pub async fn start_with_replicas(masters: usize) -> Self {
        match Self::try_start(masters, true).await {
            Ok(cluster) => cluster,
            Err(error) => panic!("no cluster for this test: {error:#}"),
        }
    }

    async fn try_start(masters: usize, replicated: bool) -> Result<Self> {
        let mut cluster = Self { masters: Vec::new(), replicas: Vec::new() };
        for _ in 0..masters {
            cluster.masters.push(start_node().await?);
        }
        for _ in 0..if replicated { masters } else { 0 } {
            cluster.replicas.push(start_node().await?);
        }
        for (number, master) in cluster.masters.iter().enumerate() {
            let (first, after) = (number * SLOTS / masters, (number + 1) * SLOTS / masters);
            order(master, &format!("CLUSTER ADDSLOTSRANGE {first} {}", after - 1)).await?;
            order(master, &format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1)).await?;
        }
        cluster.introduce().await?;
        cluster.agrees(0).await?;
        for (master, replica) in cluster.masters.iter().zip(&cluster.replicas) {
            order(replica, &format!("CLUSTER REPLICATE {}", id(master).await?)).await?;
        }
        for replica in &cluster.replicas {
            is_in_step(replica).await?;
        }
        cluster.agrees(cluster.replicas.len()).await?;
        Ok(cluster)
    }

    /// Tells each node where the others are.
    async fn introduce(&self) -> Result<()> {
        let [first, others @ ..] = &self.nodes()[..] else { return Ok(()) };
        for other in others {
            // The port of the bus is not the usual one.
            let (port, bus) = (other.address().port(), bus_port(other).await?);
            order(first, &format!("CLUSTER MEET 127.0.0.1 {port} {bus}")).await?;
        }
        Ok(())
    }

    /// Waits until all nodes know each other and this many replicas, and take commands. A master does not
    /// yield to a replica that it does not know as its own.
    async fn agrees(&self, replicas: usize) -> Result<()> {
        let nodes = self.nodes();
        let known = format!("cluster_known_nodes:{}\r", nodes.len());
        for node in &nodes {
            until("the nodes of the cluster agree", async || {
                let info = node.ask("CLUSTER INFO").await?;
                let list = node.ask("CLUSTER NODES").await?;
                let are_known = list.matches("slave ").count() == replicas;
                Ok(info.contains("cluster_state:ok") && info.contains(&known) && are_known)
            })
            .await?;
        }
        Ok(())
    }

    fn nodes(&self) -> Vec<&RedisServer> {
        self.masters.iter().chain(&self.replicas).collect()
    }

    /// The URL of the cluster, with this number of partitions.
    pub fn url(&self, partitions: u16) -> String {
        let hosts: Vec<String> =
            self.nodes().iter().map(|node| node.address().to_string()).collect();
        format!("redis+cluster://{}/?partitions={partitions}", hosts.join(","))
    }

    /// The URL of each server in [`masters`](Self::masters).
    pub fn master_urls(&self) -> Vec<String> {
        self.masters.iter().map(RedisServer::url).collect()
    }

    /// The servers that were masters at the start, or that [`restart`](Self::restart) found to be the
    /// masters since, in the order of their slots.
    pub fn masters(&mut self) -> &mut [RedisServer] {
        &mut self.masters
    }

    /// The other servers, in the order of their masters.
    pub fn replicas(&mut self) -> &mut [RedisServer] {
        &mut self.replicas
    }

    /// Moves a slot with its keys from one master to another, as `redis-cli --cluster reshard` does.
    ///
    /// # Errors
    /// If a server refuses a step.
    pub async fn move_slot(&self, slot: u16, from: usize, to: usize) -> Result<()> {
        let (from, to) = (&self.masters[from], &self.masters[to]);
        let (from_id, to_id) = (id(from).await?, id(to).await?);
        order(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}")).await?;
        order(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}")).await?;
        let port = to.address().port();
        loop {
            let answer = from.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 10")).await?;
            let keys: Vec<&str> =
                answer.lines().map(str::trim).filter(|line| line.starts_with("bf:")).collect();
            if keys.is_empty() {
                break;
            }
            let keys = keys.join(" ");
            // Answers NOKEY if all of these have expired meanwhile.
            let migrate = format!("MIGRATE 127.0.0.1 {port} \"\" 0 5000 KEYS {keys}");
            let answer = from.ask(&migrate).await?;
            ensure!(!answer.contains("\n-"), "{migrate}: {answer}");
        }
        for node in [to, from].into_iter().chain(&self.masters) {
            order(node, &format!("CLUSTER SETSLOT {slot} NODE {to_id}")).await?;
        }
        Ok(())
    }

    /// Makes a replica the master of its slots, and waits until it is.
    ///
    /// # Errors
    /// If the server refuses, or does not become the master.
    pub async fn fail_over(&self, replica: usize) -> Result<()> {
        let replica = &self.replicas[replica];
        order(replica, "CLUSTER FAILOVER").await?;
        is_promoted(replica).await
    }

    /// Starts a killed master again, empty, and waits until all nodes agree. A master without a replica
    /// has its slots again. One with a replica waits until the replica has taken over, and becomes the
    /// replica of its former replica: the two change places in [`masters`](Self::masters) and
    /// [`replicas`](Self::replicas).
    ///
    /// # Errors
    /// If the replica does not take over, or the nodes do not agree.
    ///
    /// # Panics
    /// If the server does not start.
    pub async fn restart(&mut self, master: usize) -> Result<()> {
        let killed = &mut self.masters[master];
        match self.replicas.get_mut(master) {
            None => killed.restart().await,
            Some(replica) => {
                is_promoted(replica).await?;
                mem::swap(killed, replica);
                replica.restart().await;
                is_in_step(replica).await?;
            }
        }
        self.agrees(self.replicas.len()).await
    }
}

async fn start_node() -> Result<RedisServer> {
    let bus = free_address().await?.port().to_string();
    let options = [
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-node-timeout",
        NODE_TIMEOUT,
        "--cluster-require-full-coverage",
        "no",
        // By default a master waits for five seconds for further replicas to copy its data to.
        "--repl-diskless-sync-delay",
        "0",
    ];
    RedisServer::try_start("", &options).await
}

async fn bus_port(node: &RedisServer) -> Result<String> {
    let answer = node.ask("CONFIG GET cluster-port").await?;
    answer.lines().last().map(str::to_owned).context("no cluster-port")
}

async fn id(node: &RedisServer) -> Result<String> {
    let answer = node.ask("CLUSTER MYID").await?;
    answer.lines().last().map(str::to_owned).context("no id")
}

/// Waits until a server is a replica with the data of its master.
async fn is_in_step(replica: &RedisServer) -> Result<()> {
    until("the replica is in step", async || {
        Ok(replica.ask("INFO replication").await?.contains("master_link_status:up"))
    })
    .await
}

/// Waits until a replica has become a master.
async fn is_promoted(replica: &RedisServer) -> Result<()> {
    until("the replica is the master", async || {
        Ok(replica.ask("INFO replication").await?.contains("role:master"))
    })
    .await
}

/// Sends a command that must succeed.
async fn order(node: &RedisServer, command: &str) -> Result<()> {
    let answer = node.ask(command).await?;
    ensure!(!answer.contains("\n-"), "{command}: {answer}");
    Ok(())
}

async fn until(what: &str, mut is_true: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let since = Instant::now();
    while !is_true().await? {
        ensure!(since.elapsed() < AGREEMENT_LIMIT, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
