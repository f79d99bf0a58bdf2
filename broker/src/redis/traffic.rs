//! Traffic reports of gateways: one hash, with a field per gateway boot.

use std::{collections::HashMap, time::Duration};

use redis::{Pipeline, aio::ConnectionLike};
use serde::{Deserialize, Serialize};

use super::{clock::RedisClock, errors::broker_error, keys::Keys, values::milliseconds};
use crate::{BrokerError, GatewayId, Traffic, TrafficReport, roles::COUNTED};

/// A report as Redis stores it.
#[derive(Serialize, Deserialize)]
struct StoredReport {
    /// Redis's clock at the report, in milliseconds.
    at: u64,
    traffic: Vec<Traffic>,
}

/// Stores the report of a gateway, replacing its previous report.
pub(super) async fn publish(
    keys: Keys,
    connection: &mut impl ConnectionLike,
    gateway: GatewayId,
    clock: &RedisClock,
    traffic: &[Traffic],
) -> Result<(), BrokerError> {
    let at = clock.read(connection).await?;
    let report = StoredReport { at, traffic: traffic.to_vec() };
    let report = serde_json::to_string(&report).map_err(BrokerError::refused)?;
    let mut publish = Pipeline::new();
    publish.hset(keys.traffic(), gateway.to_string(), report).ignore().cmd("TIME");
    match publish.query_async(connection).await {
        Ok((time,)) => {
            clock.set(milliseconds(time));
            Ok(())
        }
        Err(error) => {
            clock.forget();
            Err(broker_error(error))
        }
    }
}

/// Reads the latest reports. Deletes reports older than [`COUNTED`].
pub(super) async fn read(
    keys: Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Vec<TrafficReport>, BrokerError> {
    let (stored, time): (HashMap<String, String>, _) = Pipeline::new()
        .hgetall(keys.traffic())
        .cmd("TIME")
        .query_async(connection)
        .await
        .map_err(broker_error)?;
    let now = milliseconds(time);
    let (mut reports, mut forgotten) = (Vec::with_capacity(stored.len()), Vec::new());
    for (gateway, report) in stored {
        match serde_json::from_str::<StoredReport>(&report) {
            Ok(StoredReport { at, traffic }) => {
                let age = Duration::from_millis(now.saturating_sub(at));
                if age < COUNTED {
                    reports.push(TrafficReport { gateway, age, traffic });
                } else {
                    forgotten.push(gateway);
                }
            }
            Err(error) => {
                tracing::warn!(gateway, %error, "removed unreadable report");
                forgotten.push(gateway);
            }
        }
    }
    if !forgotten.is_empty() {
        let mut forget = redis::cmd("HDEL");
        forget.arg(keys.traffic()).arg(forgotten);
        forget.exec_async(connection).await.map_err(broker_error)?;
    }
    Ok(reports)
}
