//! Fleets over a Redis Cluster.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::shards::{LOAD, kill_in_turn, spread, until_spread};
use crate::{
    findings::{Findings, percent, time},
    fleet::ChaosPlan,
    load::LoadShape,
    redises::{ClusterPlan, RedisPlan},
    trial::{Scale, Trial},
};

/// With these partitions, each of the three masters has one or two.
const PARTITIONS: u16 = 4;
/// How often the slot moves.
const MOVES: u32 = 20;
/// The slot of the first partition, and the master that has it at first.
const SLOT: u16 = 247;
const HOME: usize = 0;
/// A master without a partition while there are at most two.
const OTHER: usize = 2;

fn cluster(partitions: u16, replicated: bool) -> RedisPlan {
    let cluster = Some(ClusterPlan { partitions, replicated });
    RedisPlan { cluster, ..RedisPlan::default() }
}

/// F47: one master of a cluster after the other is killed, and comes back empty with its slots.
pub(crate) async fn killed_in_turn(scale: Scale) -> Result<Findings> {
    kill_in_turn(scale, cluster(PARTITIONS, false)).await
}

/// F48: one master of a cluster after the other is killed. Its replica takes over, and the killed one
/// comes back as the replica.
pub(crate) async fn failed_over_in_turn(scale: Scale) -> Result<Findings> {
    kill_in_turn(scale, cluster(PARTITIONS, true)).await
}

/// F49: a slot moves to and fro between two masters: that of the only partition, on which all requests
/// depend, and then that of one of two.
pub(crate) async fn moved(scale: Scale) -> Result<Findings> {
    let plan = ChaosPlan { redis: cluster(1, false), ..scale.plan() };
    let alone = Trial::start(scale, &plan).await?;
    let alone = move_to_and_fro(alone, scale.open()).await?;
    let (scale, plan) = spread(scale, cluster(2, false));
    let one_of_two = Trial::start(scale, &plan).await?;
    until_spread(&one_of_two).await?;
    Ok(alone.and(move_to_and_fro(one_of_two, scale.open_at(LOAD)).await?))
}

async fn move_to_and_fro(mut trial: Trial, shape: LoadShape) -> Result<Findings> {
    let load = trial.load(shape).await?;
    let mut places = [HOME, OTHER];
    for _ in 0..MOVES {
        trial.fleet.redises.move_slot(SLOT, places[0], places[1]).await?;
        places.reverse();
        sleep(trial.scale.lasts / MOVES).await;
    }
    let journal = trial.stop(load).await?;
    trial.all_right(&journal);
    let runs = trial.runs(&journal)?;
    let repeated = percent(runs.repeated() as u64, runs.count() as u64);
    trial.findings.at_most("ran again, %", repeated, 1.0);
    trial.baseline(&journal);
    trial.findings.note(format!("p99 {}", time(trial.p99(&journal))));
    trial.findings.within("max", journal.longest(), Duration::from_secs(2));
    trial.finish().await
}
