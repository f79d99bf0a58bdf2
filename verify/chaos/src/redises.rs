//! The Redis of a fleet: a single one, several independent ones, or a cluster.

use std::iter;

use anyhow::{Context, Result};
use batchfleet_testkit::{RedisCluster, RedisServer};

use crate::control::Control;

/// Number of the masters of a cluster.
const MASTERS: usize = 3;

/// The Redis Cluster of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClusterPlan {
    pub(crate) partitions: u16,
    /// Whether each master has a replica.
    pub(crate) replicated: bool,
}

/// The Redises of a plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct RedisPlan {
    pub(crate) options: Vec<&'static str>,
    /// Number of independent Redises; 0 counts as one. Several have neither proxies nor files.
    pub(crate) independent: usize,
    /// Whether programs use only the first of them to begin with.
    pub(crate) first_only: bool,
    /// A cluster instead, without proxies or files, and without these options.
    pub(crate) cluster: Option<ClusterPlan>,
}

/// The Redises of a fleet, stopped on drop.
pub(crate) struct Redises {
    /// The only one, or the first of several. Unused if there is a cluster.
    pub(crate) first: RedisServer,
    others: Vec<RedisServer>,
    cluster: Option<(RedisCluster, ClusterPlan)>,
    /// How many of the independent ones a program uses from its next start on.
    pub(crate) in_use: usize,
}

impl Redises {
    pub(crate) async fn start(plan: &RedisPlan) -> Self {
        let first = RedisServer::start_with(&plan.options).await;
        let mut others = Vec::new();
        for _ in 1..plan.independent {
            others.push(RedisServer::start_with(&plan.options).await);
        }
        let cluster = match plan.cluster {
            None => None,
            Some(plan) if plan.replicated => {
                Some((RedisCluster::start_with_replicas(MASTERS).await, plan))
            }
            Some(plan) => Some((RedisCluster::start(MASTERS).await, plan)),
        };
        let in_use = if plan.first_only { 1 } else { plan.independent.max(1) };
        Self { first, others, cluster, in_use }
    }

    /// The value of `--redis-url` for a program that starts now.
    pub(crate) fn urls(&self) -> String {
        if let Some((cluster, plan)) = &self.cluster {
            return cluster.url(plan.partitions);
        }
        let in_use = self.independent().take(self.in_use);
        in_use.map(RedisServer::url).collect::<Vec<_>>().join(" ")
    }

    /// A client of each independent Redis, or of each present master of the cluster in the order of their
    /// slots.
    pub(crate) fn controls(&self) -> Vec<Control> {
        let urls = match &self.cluster {
            Some((cluster, _)) => cluster.master_urls(),
            None => self.independent().map(RedisServer::url).collect(),
        };
        urls.iter().map(|url| Control::new(url)).collect()
    }

    /// Kills one of those that [`controls`](Self::controls) lists.
    pub(crate) fn kill(&mut self, index: usize) {
        match (&mut self.cluster, index.checked_sub(1)) {
            (Some((cluster, _)), _) => cluster.masters()[index].kill(),
            (None, Some(other)) => self.others[other].kill(),
            (None, None) => self.first.kill(),
        }
    }

    /// Starts a killed one again, empty. A master whose replica has taken over becomes the replica.
    pub(crate) async fn restart(&mut self, index: usize) -> Result<()> {
        match (&mut self.cluster, index.checked_sub(1)) {
            (Some((cluster, _)), _) => cluster.restart(index).await?,
            (None, Some(other)) => self.others[other].restart().await,
            (None, None) => self.first.restart().await,
        }
        Ok(())
    }

    /// Moves a slot of the cluster from one master to another.
    pub(crate) async fn move_slot(&self, slot: u16, from: usize, to: usize) -> Result<()> {
        let (cluster, _) = self.cluster.as_ref().context("the plan has no cluster")?;
        cluster.move_slot(slot, from, to).await
    }

    /// Stops all independent Redises but the first.
    pub(crate) fn remove_others(&mut self) {
        self.others.clear();
    }

    fn independent(&self) -> impl Iterator<Item = &RedisServer> {
        iter::once(&self.first).chain(&self.others)
    }
}
