//! What keeps the workers of a fleet from serving. Reads the events of pods whose status does not
//! tell.

use std::time::Duration;

use k8s_openapi::{api::core::v1::Event, jiff::Timestamp};
use kube::{
    Api, ResourceExt,
    api::{ListParams, ObjectList},
};
use tracing::debug;

use super::{context::Context, fleets::FleetState};
use crate::{
    cluster::ClusterState,
    crd::ModelFleet,
    decide::FleetInput,
    problem::{Evidence, Problem},
};

/// Number of pods of a fleet whose events are read.
const PODS: usize = 3;
/// Time for which the events of a pod are not read again.
const FRESH: Duration = Duration::from_secs(30);

/// What a fleet lacks.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// What keeps workers from serving.
    pub(super) problem: Option<Problem>,
    /// What a pod that is not ready does at present.
    pub(super) activity: Option<String>,
}

/// The events of the pods that were looked at last.
#[derive(Debug, Default)]
pub(super) struct EventsRead {
    at: Option<Duration>,
    pods: Vec<String>,
    events: Vec<Event>,
}

/// Finds out what keeps workers from serving.
pub(super) async fn trouble(
    fleet: &ModelFleet,
    state: &mut FleetState,
    existing: &ClusterState,
    input: &FleetInput,
    context: &Context,
) -> Trouble {
    let lacks_workers = input.ready < input.ordered;
    let evidence = Evidence {
        deployment: existing.deployment.owned(),
        pods: &existing.pods,
        events: &[],
        lacks_workers,
        cold_start: input.cold_start,
        now: Timestamp::now(),
    };
    let mut pods = evidence.obscure();
    pods.truncate(PODS);
    let namespace = fleet.namespace().unwrap_or_default();
    let api = Api::namespaced(context.events.client.clone(), &namespace);
    state.events.follow(pods, &api, context.started.elapsed()).await;
    let evidence = Evidence { events: &state.events.events, ..evidence };
    let activity = if lacks_workers { evidence.activity() } else { None };
    Trouble { problem: evidence.problem(), activity }
}

impl EventsRead {
    /// Reads the events of these pods, unless they were read a moment ago.
    async fn follow(&mut self, pods: Vec<String>, api: &Api<Event>, now: Duration) {
        let is_fresh = self.at.is_some_and(|at| now.saturating_sub(at) < FRESH);
        if pods.is_empty() {
            *self = Self::default();
        } else if !is_fresh || self.pods != pods {
            let mut events = Vec::new();
            for pod in &pods {
                events.extend(of_pod(api, pod).await);
            }
            *self = Self { at: Some(now), pods, events };
        }
    }
}

/// Returns the events of a pod. Without the right to read events, a controller says less.
async fn of_pod(api: &Api<Event>, uid: &str) -> Vec<Event> {
    let of_pod = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    match api.list(&of_pod).await {
        Ok(ObjectList { items, .. }) => items,
        Err(error) => {
            debug!(%error, pod = uid, "failed to read the events of a pod");
            Vec::new()
        }
    }
}
