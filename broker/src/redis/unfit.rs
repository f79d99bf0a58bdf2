//! Refuses servers that would lose jobs, or that lack what is needed.

use super::{
    connect::info, errors::too_old, locator::Locator, partitions, routed::RoutedConnection,
};
use crate::BrokerError;

/// Refuses a Redis that evicts keys, because eviction would delete whole queues. Also refuses a
/// node of a cluster whose URL does not say so, a cluster that other programs use with another number
/// of partitions, and versions that lack commands.
pub(super) async fn refuse_unfit(
    connection: &mut RoutedConnection,
    locator: &Locator,
) -> Result<(), BrokerError> {
    refuse_unfit_server(connection, locator).await?;
    partitions::join(connection, locator).await
}

async fn refuse_unfit_server(
    connection: &mut RoutedConnection,
    locator: &Locator,
) -> Result<(), BrokerError> {
    let sections = ["server", "memory", "cluster"];
    let Some(info) = info(connection, &sections).await? else { return Ok(()) };
    // Valkey also reports the version of Redis that it is compatible with.
    if let Some(version) = info.field("redis_version").filter(|version| is_too_old(version)) {
        return Err(too_old(&locator.name(), version));
    }
    if info.field("cluster_enabled") == Some("1") && !locator.is_of_cluster() {
        return Err(BrokerError::misconfigured(
            "Redis runs as a cluster (cluster-enabled yes); begin its URL with redis+cluster:// or \
             rediss+cluster://",
        ));
    }
    match info.field("maxmemory_policy") {
        Some(policy) if policy != "noeviction" && info.field("maxmemory") != Some("0") => {
            Err(BrokerError::misconfigured(format!(
                "Redis has maxmemory-policy {policy} and would delete queued requests when its \
                 memory is full; set maxmemory-policy to noeviction"
            )))
        }
        _ => Ok(()),
    }
}

/// Whether a version such as `6.2.7` is older than 7.0.
fn is_too_old(version: &str) -> bool {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major < 7)
}
