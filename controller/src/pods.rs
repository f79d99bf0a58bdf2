//! The pods of a fleet: measured cold starts, and the annotations that tell Kubernetes which pods
//! and nodes to remove. Pure.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use batchfleet_broker::ObservedWorker;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

/// Number of recent starts from which the cold start is computed.
const STARTS: usize = 10;
/// A worker counts as idle after holding no job for this time.
const IDLE: Duration = Duration::from_mins(1);
/// Annotation with the deletion cost of a pod. A shrinking `ReplicaSet` deletes the pods with the
/// lowest cost first.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Annotations that keep Karpenter and the cluster autoscaler from removing the node of a pod, with
/// their values.
const HOLDS: [(&str, &str); 2] = [
    ("karpenter.sh/do-not-disrupt", "true"),
    ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
];

/// History of the pods of a fleet.
#[derive(Debug, Default)]
pub(crate) struct PodHistory {
    /// Pods by uid: whether the pod has been ready before.
    known: HashMap<String, bool>,
    /// The last cold starts, oldest first.
    starts: VecDeque<Duration>,
    /// Time at which each pod was last observed to hold jobs.
    busy: HashMap<String, Duration>,
}

impl PodHistory {
    /// Records the pods. A start is measured only if the pod was observed before it became ready for
    /// the first time: the readiness of a pod that recovered from a failure says nothing about
    /// starts.
    pub(crate) fn observe(&mut self, pods: &[Arc<Pod>]) {
        for pod in pods {
            let uid = pod.uid().unwrap_or_default();
            let Some(took) = ready_after(pod) else {
                self.known.entry(uid).or_insert(false);
                continue;
            };
            if self.known.insert(uid, true) == Some(false) {
                self.starts.push_back(took);
            }
        }
        while self.starts.len() > STARTS {
            self.starts.pop_front();
        }
        let present: HashSet<_> = pods.iter().filter_map(|pod| pod.uid()).collect();
        self.known.retain(|uid, _| present.contains(uid));
    }

    /// Returns the time from the creation of a pod until the pod is ready: the 90th percentile of
    /// the last ten starts.
    pub(crate) fn cold_start(&self) -> Option<Duration> {
        let mut starts: Vec<_> = self.starts.iter().copied().collect();
        starts.sort_unstable();
        starts.get((starts.len() * 9).div_ceil(10).checked_sub(1)?).copied()
    }

    /// Returns the annotations to change at `now`, by pod. A null value removes an annotation.
    ///
    /// A pod whose worker held jobs within the last minute keeps its node. The deletion cost of a
    /// pod is the number of jobs that the pod holds. To avoid frequent writes, the cost is rounded
    /// down to a power of four, and written only while the fleet is to shrink.
    pub(crate) fn annotations(
        &mut self,
        now: Duration,
        pods: &[Arc<Pod>],
        jobs: &HashMap<String, u64>,
        shrinks: bool,
    ) -> Vec<(String, Value)> {
        let names: HashSet<_> = pods.iter().map(|pod| pod.name_any()).collect();
        self.busy.retain(|pod, _| names.contains(pod));
        let remaining = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let changes = remaining.filter_map(|pod| {
            let name = pod.name_any();
            let jobs = *jobs.get(&name)?;
            if jobs > 0 {
                self.busy.insert(name.clone(), now);
            }
            let is_busy = self.busy.get(&name).is_some_and(|at| now.saturating_sub(*at) < IDLE);
            let mut wanted: Vec<_> = HOLDS
                .iter()
                .map(|&(hold, value)| (hold, is_busy.then(|| value.to_owned())))
                .collect();
            if shrinks {
                wanted.push((COST, Some(cost(jobs).to_string())));
            }
            wanted.retain(|(key, value)| pod.annotations().get(*key) != value.as_ref());
            (!wanted.is_empty())
                .then(|| (name, json!(wanted.into_iter().collect::<HashMap<_, _>>())))
        });
        changes.collect()
    }
}

/// Returns the number of jobs held by the living workers of each host.
pub(crate) fn jobs_by_host(
    workers: &[ObservedWorker],
    held: &HashMap<String, u64>,
) -> HashMap<String, u64> {
    let mut jobs = HashMap::new();
    let living = workers.iter().filter(|worker| worker.live).map(|worker| &worker.announcement);
    for announcement in living.filter(|announcement| !announcement.host.is_empty()) {
        let held = held.get(&announcement.worker).unwrap_or(&0);
        *jobs.entry(announcement.host.clone()).or_default() += held;
    }
    jobs
}

/// Rounds a number of jobs down to a power of four.
fn cost(jobs: u64) -> u64 {
    jobs.checked_ilog2().map_or(0, |power| 1 << (power & !1))
}

/// Returns the time from the creation of a pod until the pod was ready, or `None` while it is not
/// ready.
fn ready_after(pod: &Pod) -> Option<Duration> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|it| it.type_ == "Ready" && it.status == "True")?;
    let (ready, created) = (&ready.last_transition_time, pod.creation_timestamp()?);
    Duration::try_from(ready.as_ref()?.0.duration_since(created.0)).ok()
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Announcement, QueueName, WorkerId};

    use super::*;
    use crate::sample;

    fn pod(name: &str, ready_after: Option<u32>) -> Arc<Pod> {
        let ready = ready_after.map(|seconds| {
            let at = format!("2026-01-01T00:{:02}:{:02}Z", seconds / 60, seconds % 60);
            json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}])
        });
        let pod = serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"conditions": ready},
        }));
        Arc::new(pod.unwrap())
    }

    fn annotated(name: &str, annotations: &Value) -> Arc<Pod> {
        let mut pod = Arc::unwrap_or_clone(pod(name, Some(1)));
        pod.metadata.annotations = serde_json::from_value(annotations.clone()).unwrap();
        Arc::new(pod)
    }

    #[test]
    fn a_start_counts_from_creation_to_readiness_if_the_pod_was_seen_before() {
        let mut pods = PodHistory::default();
        pods.observe(&[pod("old", Some(900)), pod("new", None)]);
        assert_eq!(pods.cold_start(), None);
        pods.observe(&[pod("old", Some(900)), pod("new", Some(42))]);
        assert_eq!(pods.cold_start(), Some(Duration::from_secs(42)));
        for between in [vec![pod("new", None)], vec![]] {
            pods.observe(&between);
            pods.observe(&[pod("new", Some(600))]);
            assert_eq!(pods.cold_start(), Some(Duration::from_secs(42)), "ready again: no start");
        }
    }

    #[test]
    fn the_second_slowest_of_the_last_ten_starts_counts() {
        let mut pods = PodHistory::default();
        for start in 1..=12 {
            let name = start.to_string();
            pods.observe(&[pod(&name, None)]);
            pods.observe(&[pod(&name, Some(start * 10))]);
        }
        assert_eq!(pods.cold_start(), Some(Duration::from_secs(110)));
    }

    #[test]
    fn a_busy_pod_keeps_its_node_until_it_has_been_idle_for_a_minute() {
        let (mut pods, at) = (PodHistory::default(), Duration::from_secs);
        let jobs = |jobs| HashMap::from([("a".to_owned(), jobs)]);
        let held = json!({
            "karpenter.sh/do-not-disrupt": "true",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        });
        let mut change = |now, pod: &Arc<Pod>, count| {
            pods.annotations(at(now), std::slice::from_ref(pod), &jobs(count), false)
        };
        let (fresh, marked) = (annotated("a", &Value::Null), annotated("a", &held));
        assert_eq!(change(0, &fresh, 0), []);
        assert_eq!(change(5, &fresh, 3), [("a".to_owned(), held)]);
        assert_eq!(change(10, &marked, 70), []);
        assert_eq!(change(60, &marked, 0), []);
        let freed = json!({
            "karpenter.sh/do-not-disrupt": null,
            "cluster-autoscaler.kubernetes.io/safe-to-evict": null,
        });
        assert_eq!(change(70, &marked, 0), [("a".to_owned(), freed)]);
    }

    #[test]
    fn the_deletion_cost_is_written_coarsely_and_only_while_the_fleet_shrinks() {
        let mut pods = PodHistory::default();
        let jobs = HashMap::from([("a".to_owned(), 0), ("b".to_owned(), 37)]);
        let now = Duration::ZERO;
        let (a, b) = (
            annotated("a", &Value::Null),
            annotated(
                "b",
                &json!({
                    "karpenter.sh/do-not-disrupt": "true",
                    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                    "controller.kubernetes.io/pod-deletion-cost": "16",
                }),
            ),
        );
        let present = [a, b, pod("unknown", Some(1))];
        assert_eq!(pods.annotations(now, &present, &jobs, false), []);
        let free = json!({"controller.kubernetes.io/pod-deletion-cost": "0"});
        assert_eq!(pods.annotations(now, &present, &jobs, true), [("a".to_owned(), free)]);
        assert_eq!([0, 1, 3, 4, 63, 64, 300].map(super::cost), [0, 1, 1, 4, 16, 64, 256]);
    }

    #[test]
    fn a_pods_jobs_are_those_of_the_living_worker_in_it() {
        let observed = |worker, host: &str, live| {
            let announcement = sample::unmeasured(worker, QueueName::new("m", 1));
            let announcement = Announcement { host: host.to_owned(), ..announcement };
            ObservedWorker { announcement, live }
        };
        let workers = [
            observed(1, "a", true),
            observed(2, "b", true),
            observed(3, "c", false),
            observed(4, "", true),
        ];
        let held = HashMap::from([(WorkerId(1).to_string(), 7), (WorkerId(3).to_string(), 9)]);
        let expected = HashMap::from([("a".to_owned(), 7), ("b".to_owned(), 0)]);
        assert_eq!(jobs_by_host(&workers, &held), expected);
    }
}
