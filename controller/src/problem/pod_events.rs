//! The events of one pod. Pure.

use k8s_openapi::{
    api::core::v1::{Event, Pod},
    jiff::Timestamp,
};
use kube::ResourceExt;

use super::last_words::cut;

/// Texts of warnings that repeat that something failed, without its cause.
const WITHOUT_CAUSE: [&str; 2] = ["timed out waiting for the condition", "context deadline"];

/// The events of one pod, the oldest first.
pub(super) struct PodEvents<'a>(Vec<(Timestamp, &'a Event)>);

impl<'a> PodEvents<'a> {
    /// Returns those of `events` that are about `pod`.
    pub(super) fn of(pod: &Pod, events: &'a [Event]) -> Self {
        let uid = pod.uid();
        let own = events.iter().filter(|event| uid.is_some() && event.involved_object.uid == uid);
        let mut own: Vec<_> = own.filter_map(|event| Some((time(event)?, event))).collect();
        own.sort_by_key(|(at, _)| *at);
        Self(own)
    }

    /// Returns the warning that tells why the containers of the pod are not created: the last one
    /// that no progress has followed, and one with a cause rather than one without.
    pub(super) fn obstacle(&self) -> Option<&'a Event> {
        // The times of many events are whole seconds. A node reports its first warning in the second
        // in which the pod is scheduled, and a step that succeeds later than the warning.
        let is_progress =
            |event: &Event| !is_warning(event) && event.reason.as_deref() != Some("Scheduled");
        let progress = self.0.iter().rev().find(|(_, event)| is_progress(event));
        let since = progress.map_or(Timestamp::MIN, |(at, _)| *at);
        let is_obstacle = |event: &Event| {
            is_warning(event) && event.reason.as_deref() != Some("FailedScheduling")
        };
        let left = self.0.iter().filter(|(at, event)| *at > since && is_obstacle(event));
        let left: Vec<&Event> = left.map(|(_, event)| *event).collect();
        let has_cause = |event: &&&Event| {
            let text = event.message.as_deref().unwrap_or_default();
            !WITHOUT_CAUSE.iter().any(|part| text.contains(part))
        };
        left.iter().rev().find(has_cause).or(left.last()).copied()
    }

    /// Returns the last event of this reason.
    pub(super) fn last_of(&self, reason: &str) -> Option<&'a Event> {
        let mut newest = self.0.iter().rev().map(|(_, event)| *event);
        newest.find(|event| event.reason.as_deref() == Some(reason))
    }

    /// Returns the last event.
    pub(super) fn last(&self) -> Option<&'a Event> {
        self.0.last().map(|(_, event)| *event)
    }

    /// Whether an event says that Kubernetes ended a container because of its liveness probe.
    pub(super) fn has_failed_liveness(&self) -> bool {
        let mut texts = self.0.iter().filter_map(|(_, event)| event.message.as_deref());
        texts.any(|text| {
            text.contains("failed liveness probe") || text.starts_with("Liveness probe failed")
        })
    }
}

/// Returns the reason and the message of an event.
pub(super) fn quoted(event: &Event) -> String {
    let (reason, message) = (event.reason.as_deref(), event.message.as_deref());
    cut(&format!("{}: {}", reason.unwrap_or_default(), message.unwrap_or_default().trim()))
}

fn is_warning(event: &Event) -> bool {
    event.type_.as_deref() == Some("Warning")
}

/// Returns the time at which the event happened last.
fn time(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let precise = [series, event.event_time.as_ref()].into_iter().flatten().map(|time| time.0);
    let seconds = [&event.last_timestamp, &event.first_timestamp];
    precise.chain(seconds.into_iter().flatten().map(|time| time.0)).max()
}
