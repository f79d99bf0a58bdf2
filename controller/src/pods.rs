//! A fleet's pods: how long new ones took to be ready, and what is written on them for those who
//! choose which of them ends. Pure.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use batchfleet_broker::ObservedWorker;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

/// Of so many starts the slow ones are reckoned with.
const STARTS: usize = 10;
/// A worker that held no job for so long is idle.
const CALM: Duration = Duration::from_mins(1);
/// A `ReplicaSet` that shrinks ends the pods with the lowest cost first.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// What keeps a node from being given up under a pod, and the value that does: Karpenter's, and the
/// cluster autoscaler's.
const HOLDS: [(&str, &str); 2] = [
    ("karpenter.sh/do-not-disrupt", "true"),
    ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
];

/// What is remembered of a fleet's pods.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    /// Those that were seen before they were ready, by uid.
    young: HashSet<String>,
    /// How long the last of them took, latest last.
    starts: VecDeque<Duration>,
    /// When a pod was last seen to hold jobs.
    busy: HashMap<String, Duration>,
}

impl Pods {
    /// Takes in a look at the pods. A start counts only if it was watched: one that is ready again
    /// after a failure tells nothing about starts.
    pub(crate) fn observe(&mut self, pods: &[Pod]) {
        for pod in pods {
            let uid = pod.uid().unwrap_or_default();
            match ready_after(pod) {
                None => drop(self.young.insert(uid)),
                Some(took) if self.young.remove(&uid) => self.starts.push_back(took),
                Some(_) => {}
            }
        }
        while self.starts.len() > STARTS {
            self.starts.pop_front();
        }
        let standing: HashSet<_> = pods.iter().filter_map(ResourceExt::uid).collect();
        self.young.retain(|uid| standing.contains(uid));
    }

    /// From a pod's creation until its worker was ready: what nine of ten starts kept to, of the
    /// last ten that were watched.
    pub(crate) fn cold_start(&self) -> Option<Duration> {
        let mut starts: Vec<_> = self.starts.iter().copied().collect();
        starts.sort_unstable();
        starts.get((starts.len() * 9).div_ceil(10).checked_sub(1)?).copied()
    }

    /// What must be written on which pod at `now`, as annotations.
    ///
    /// A pod whose worker held jobs within the last minute holds its node. What its end would cost
    /// is written only while the fleet is to shrink, as a power of four of the jobs it holds: noise
    /// writes nothing.
    pub(crate) fn marks(
        &mut self,
        now: Duration,
        pods: &[Pod],
        jobs: &HashMap<String, u64>,
        shrinks: bool,
    ) -> Vec<(String, Value)> {
        let names: HashSet<_> = pods.iter().map(ResourceExt::name_any).collect();
        self.busy.retain(|pod, _| names.contains(pod));
        let stays = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let marks = stays.filter_map(|pod| {
            let name = pod.name_any();
            let jobs = *jobs.get(&name)?;
            if jobs > 0 {
                self.busy.insert(name.clone(), now);
            }
            let is_busy = self.busy.get(&name).is_some_and(|at| now.saturating_sub(*at) < CALM);
            let mut wanted: Vec<_> = HOLDS
                .iter()
                .map(|&(hold, value)| (hold, is_busy.then(|| value.to_owned())))
                .collect();
            if shrinks {
                wanted.push((COST, Some(cost(jobs).to_string())));
            }
            wanted.retain(|(mark, value)| pod.annotations().get(*mark) != value.as_ref());
            (!wanted.is_empty())
                .then(|| (name, json!(wanted.into_iter().collect::<HashMap<_, _>>())))
        });
        marks.collect()
    }
}

/// How many jobs the workers of each host hold.
pub(crate) fn jobs_by_host(
    words: &[ObservedWorker],
    held: &HashMap<String, u64>,
) -> HashMap<String, u64> {
    let mut jobs = HashMap::new();
    let living = words.iter().filter(|word| word.live).map(|word| &word.announcement);
    for word in living.filter(|word| !word.host.is_empty()) {
        *jobs.entry(word.host.clone()).or_default() += held.get(&word.worker).unwrap_or(&0);
    }
    jobs
}

/// 0 of none, else the power of four below.
fn cost(jobs: u64) -> u64 {
    jobs.checked_ilog2().map_or(0, |power| 1 << (power & !1))
}

/// How long after its creation a pod was ready, if it is.
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

    fn pod(name: &str, ready_after: Option<u32>) -> Pod {
        let ready = ready_after.map(|seconds| {
            let at = format!("2026-01-01T00:{:02}:{:02}Z", seconds / 60, seconds % 60);
            json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}])
        });
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"conditions": ready},
        }))
        .unwrap()
    }

    fn annotated(name: &str, annotations: &Value) -> Pod {
        let mut pod = pod(name, Some(1));
        pod.metadata.annotations = serde_json::from_value(annotations.clone()).unwrap();
        pod
    }

    #[test]
    fn a_start_lasts_from_a_pods_creation_until_it_is_ready_if_that_was_watched() {
        let mut pods = Pods::default();
        pods.observe(&[pod("old", Some(900)), pod("new", None)]);
        assert_eq!(pods.cold_start(), None);
        pods.observe(&[pod("old", Some(900)), pod("new", Some(42))]);
        assert_eq!(pods.cold_start(), Some(Duration::from_secs(42)));
        // It was ready again later on.
        pods.observe(&[pod("new", None)]);
        pods.observe(&[]);
        pods.observe(&[pod("new", Some(600))]);
        assert_eq!(pods.cold_start(), Some(Duration::from_secs(42)));
    }

    #[test]
    fn of_the_last_ten_starts_the_slowest_but_one_counts() {
        let mut pods = Pods::default();
        for start in 1..=12 {
            let name = start.to_string();
            pods.observe(&[pod(&name, None)]);
            pods.observe(&[pod(&name, Some(start * 10))]);
        }
        assert_eq!(pods.cold_start(), Some(Duration::from_secs(110)));
    }

    #[test]
    fn a_busy_pod_holds_its_node_until_it_was_idle_for_a_minute() {
        let (mut pods, at) = (Pods::default(), Duration::from_secs);
        let jobs = |jobs| HashMap::from([("a".to_owned(), jobs)]);
        let held = json!({
            "karpenter.sh/do-not-disrupt": "true",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        });
        let mut mark = |now, pod: &Pod, count| {
            pods.marks(at(now), std::slice::from_ref(pod), &jobs(count), false)
        };
        let (fresh, marked) = (annotated("a", &Value::Null), annotated("a", &held));
        assert_eq!(mark(0, &fresh, 0), []);
        assert_eq!(mark(5, &fresh, 3), [("a".to_owned(), held)]);
        assert_eq!(mark(10, &marked, 70), []);
        assert_eq!(mark(60, &marked, 0), []);
        let freed = json!({
            "karpenter.sh/do-not-disrupt": null,
            "cluster-autoscaler.kubernetes.io/safe-to-evict": null,
        });
        assert_eq!(mark(70, &marked, 0), [("a".to_owned(), freed)]);
    }

    #[test]
    fn what_an_end_costs_is_written_only_while_the_fleet_shrinks_and_coarsely() {
        let mut pods = Pods::default();
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
        let look = [a, b, pod("unknown", Some(1))];
        assert_eq!(pods.marks(now, &look, &jobs, false), []);
        let free = json!({"controller.kubernetes.io/pod-deletion-cost": "0"});
        assert_eq!(pods.marks(now, &look, &jobs, true), [("a".to_owned(), free)]);
        assert_eq!([0, 1, 3, 4, 63, 64, 300].map(super::cost), [0, 1, 1, 4, 16, 64, 256]);
    }

    #[test]
    fn a_pods_jobs_are_those_of_the_living_worker_in_it() {
        let word = |worker, host: &str, live| {
            let word = sample::word(worker, QueueName::new("m", 1));
            let announcement = Announcement { host: host.to_owned(), ..word };
            ObservedWorker { announcement, live }
        };
        let words =
            [word(1, "a", true), word(2, "b", true), word(3, "c", false), word(4, "", true)];
        let held = HashMap::from([(WorkerId(1).to_string(), 7), (WorkerId(3).to_string(), 9)]);
        let expected = HashMap::from([("a".to_owned(), 7), ("b".to_owned(), 0)]);
        assert_eq!(jobs_by_host(&words, &held), expected);
    }
}
