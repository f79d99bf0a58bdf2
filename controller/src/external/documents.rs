//! The requests and responses of the external metrics API. Pure.

use batchfleet_broker::QueueName;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde_json::{Value, json};

use crate::objects::QUEUE_DEPTH;

pub(super) const GROUP: &str = "external.metrics.k8s.io";
pub(super) const VERSION: &str = "v1beta1";

/// Returns the discovery document of the API group.
pub(super) fn group() -> Value {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": [version],
        "preferredVersion": version,
    })
}

/// Returns the discovery document of the metrics. The API server requests this document
/// periodically, and marks a server that does not respond as unavailable.
pub(super) fn resources() -> Value {
    let metric = json!({
        "name": QUEUE_DEPTH,
        "singularName": "",
        "namespaced": true,
        "kind": "ExternalMetricValueList",
        "verbs": ["get"],
    });
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": [metric],
    })
}

/// Returns the response with the depth of each queue. The autoscaler adds up the depths.
pub(super) fn values(depths: &[(QueueName, u64)], now: Timestamp) -> Value {
    let item = |(queue, depth): &(QueueName, u64)| {
        json!({
            "metricName": QUEUE_DEPTH,
            "metricLabels": {"model": queue.model, "version": queue.version.to_string()},
            "timestamp": Time(now),
            "value": depth.to_string(),
        })
    };
    json!({
        "kind": "ExternalMetricValueList",
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {},
        "items": depths.iter().map(item).collect::<Vec<_>>(),
    })
}

/// Returns an error response.
pub(super) fn refusal(code: u16, message: &str) -> Value {
    let reason = match code {
        400 => "BadRequest",
        404 => "NotFound",
        _ => "ServiceUnavailable",
    };
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    })
}

/// A label selector: labels that a queue must have or must not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Labels(Vec<Label>);

#[derive(Debug, PartialEq, Eq)]
struct Label {
    name: String,
    value: String,
    is_wanted: bool,
}

impl Labels {
    /// Parses a label selector such as `model=digits,version!=2`. Set-based requirements are not
    /// supported.
    pub(super) fn parse(selector: &str) -> Result<Self, String> {
        let terms = selector.split(',').map(str::trim).filter(|term| !term.is_empty());
        terms.map(label).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn fit(&self, queue: &QueueName) -> bool {
        self.0.iter().all(|label| {
            let has = match label.name.as_str() {
                "model" => queue.model == label.value,
                "version" => queue.version.to_string() == label.value,
                _ => false,
            };
            has == label.is_wanted
        })
    }
}

fn label(term: &str) -> Result<Label, String> {
    let (left, value) = term
        .split_once('=')
        .ok_or_else(|| format!("{term:?}: only label=value and label!=value are supported"))?;
    let name = left.strip_suffix('!').unwrap_or(left);
    Ok(Label {
        name: name.trim().to_owned(),
        value: value.trim_start_matches('=').trim().to_owned(),
        is_wanted: name == left,
    })
}
