//! What gateways count of the load: one hash, a field per boot of a gateway.

use std::{collections::HashMap, time::Duration};

use redis::{Pipeline, aio::ConnectionLike};
use serde::{Deserialize, Serialize};

use super::{
    connect::{broker_error, milliseconds},
    keys,
};
use crate::{BrokerError, GatewayId, Traffic, TrafficReport, roles::COUNTED};

/// What stands in Redis about a gateway.
#[derive(Serialize, Deserialize)]
struct Said {
    /// When: Redis's clock, in milliseconds.
    at: u64,
    traffic: Vec<Traffic>,
}

pub(super) async fn say(
    connection: &mut impl ConnectionLike,
    gateway: GatewayId,
    traffic: &[Traffic],
) -> Result<(), BrokerError> {
    let time = redis::cmd("TIME").query_async(connection).await.map_err(broker_error)?;
    let said = Said { at: milliseconds(time), traffic: traffic.to_vec() };
    let said = serde_json::to_string(&said).map_err(BrokerError::refused)?;
    let mut set = redis::cmd("HSET");
    set.arg(keys::TRAFFIC).arg(gateway.to_string()).arg(said);
    set.exec_async(connection).await.map_err(broker_error)
}

/// What was said of late; forgets the rest.
pub(super) async fn hear(
    connection: &mut impl ConnectionLike,
) -> Result<Vec<TrafficReport>, BrokerError> {
    let (said, time): (HashMap<String, String>, _) = Pipeline::new()
        .hgetall(keys::TRAFFIC)
        .cmd("TIME")
        .query_async(connection)
        .await
        .map_err(broker_error)?;
    let now = milliseconds(time);
    let (mut reports, mut forgotten) = (Vec::with_capacity(said.len()), Vec::new());
    for (gateway, said) in said {
        match serde_json::from_str::<Said>(&said) {
            Ok(Said { at, traffic }) => {
                let age = Duration::from_millis(now.saturating_sub(at));
                if age < COUNTED {
                    reports.push(TrafficReport { gateway, age, traffic });
                } else {
                    forgotten.push(gateway);
                }
            }
            // It may make sense to a newer program: leave it to that one.
            Err(error) => tracing::warn!(gateway, %error, "skipped an unreadable report"),
        }
    }
    if !forgotten.is_empty() {
        let mut forget = redis::cmd("HDEL");
        forget.arg(keys::TRAFFIC).arg(forgotten);
        forget.exec_async(connection).await.map_err(broker_error)?;
    }
    Ok(reports)
}
