//! `ModelDynamicBatching` and its messages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::enums::proto_enum;

/// `ModelDynamicBatching`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DynamicBatching {
    pub(crate) preferred_batch_size: Vec<i32>,
    pub(crate) max_queue_delay_microseconds: u64,
    pub(crate) preserve_ordering: bool,
    pub(crate) priority_levels: u64,
    pub(crate) default_priority_level: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) default_queue_policy: Option<QueuePolicy>,
    pub(crate) priority_queue_policy: BTreeMap<u64, QueuePolicy>,
}

proto_enum!(
    /// `ModelQueuePolicy.TimeoutAction`
    TimeoutAction { Reject = "REJECT", Delay = "DELAY" }
);

/// `ModelQueuePolicy`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct QueuePolicy {
    pub(crate) timeout_action: TimeoutAction,
    pub(crate) default_timeout_microseconds: u64,
    pub(crate) allow_timeout_override: bool,
    pub(crate) max_queue_size: u32,
}
