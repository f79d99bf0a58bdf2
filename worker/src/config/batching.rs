//! `dynamic_batching`: how long requests wait.

use std::time::Duration;

use batchfleet_broker::{QueueLimits, QueuePolicy};

use super::{
    message::{self, DynamicBatching, Message, TimeoutAction},
    mistake::Mistake,
};

/// The time that a batch waits for more jobs; `None` if the config has no `dynamic_batching`, or
/// leaves the time to the settings.
pub(super) fn linger(message: &Message) -> Option<Duration> {
    let delay = message.dynamic_batching.as_ref()?.max_queue_delay_microseconds;
    (delay > 0).then(|| Duration::from_micros(delay))
}

/// The limits of requests that wait.
///
/// Priority 1 is the class critical, 2 default, and 3 and more sheddable. Requests without a
/// priority have the class default, and the limits of the default level.
pub(super) fn queue_policy(message: &Message) -> Result<QueuePolicy, Mistake> {
    let Some(batching) = &message.dynamic_batching else { return Ok(QueuePolicy::default()) };
    check(message, batching)?;
    let limits = |level: u64| {
        let levels = &batching.priority_queue_policy;
        let policy = levels.get(&level).or(batching.default_queue_policy.as_ref());
        policy.map(limits).unwrap_or_default()
    };
    let default = match batching.default_priority_level {
        0 => 2,
        level => level,
    };
    Ok(QueuePolicy { classes: [limits(1), limits(default), limits(3)] })
}

fn limits(policy: &message::QueuePolicy) -> QueueLimits {
    let timeout = policy.default_timeout_microseconds;
    // A delayed request may run after its timeout, which no gateway waits for.
    let rejects = policy.timeout_action == TimeoutAction::Reject;
    QueueLimits {
        timeout_us: (timeout > 0 && rejects).then_some(timeout),
        may_shorten: policy.allow_timeout_override,
        max_waiting: (policy.max_queue_size > 0).then_some(policy.max_queue_size),
    }
}

/// Whether the config sets a timeout after which requests are delayed and not rejected.
pub(super) fn delays(message: &Message) -> bool {
    let Some(batching) = &message.dynamic_batching else { return false };
    let policies = batching.priority_queue_policy.values();
    policies.chain(&batching.default_queue_policy).any(|policy| {
        policy.timeout_action == TimeoutAction::Delay && policy.default_timeout_microseconds > 0
    })
}

/// Rejects sizes and levels that contradict each other.
fn check(message: &Message, batching: &DynamicBatching) -> Result<(), Mistake> {
    let mistake = |problem: String| Err(Mistake::new("dynamic_batching", problem));
    let most = message.max_batch_size.unwrap_or(i32::MAX);
    for &size in &batching.preferred_batch_size {
        if size < 1 {
            return mistake(format!("preferred_batch_size {size} is not a number of rows"));
        }
        if size > most && most > 0 {
            return mistake(format!(
                "preferred_batch_size {size} is larger than max_batch_size {most}"
            ));
        }
    }
    let (levels, default) = (batching.priority_levels, batching.default_priority_level);
    if levels > 0 && !(1..=levels).contains(&default) {
        return mistake(format!(
            "default_priority_level is {default}, but priority_levels {levels} allows 1 to {levels}"
        ));
    }
    match batching.priority_queue_policy.keys().find(|&&level| !(1..=levels).contains(&level)) {
        Some(level) => mistake(format!(
            "priority_queue_policy has the level {level}, but priority_levels is {levels}"
        )),
        None => Ok(()),
    }
}
