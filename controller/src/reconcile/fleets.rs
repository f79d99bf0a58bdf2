//! The state that the controller keeps for each fleet between turns.

use std::{collections::HashMap, time::Duration};

use batchfleet_broker::Announcement;
use kube::ResourceExt;
use parking_lot::Mutex;

use super::{by_hand::Replicas, retract::ServedQueues, trouble::EventsRead};
use crate::{
    cluster::ServedVersions,
    crd::ModelFleet,
    decide::{Decision, FleetInput, ScaleMemory, TICK},
    meter::Meter,
    observe::FleetView,
    pods::PodHistory,
    target::PublishedTarget,
};

/// The states of all fleets.
#[derive(Debug, Default)]
pub(crate) struct FleetStates {
    states: Mutex<HashMap<String, FleetState>>,
    /// Namespace and name by uid, of each fleet that has had a turn.
    names: Mutex<HashMap<String, [String; 2]>>,
    versions: Mutex<ServedVersions>,
    /// The queues that the fleets serve.
    pub(super) served: ServedQueues,
}

/// The state of one fleet.
#[derive(Debug, Default)]
pub(super) struct FleetState {
    pub(super) memory: ScaleMemory,
    pub(super) meter: Meter,
    pub(super) decided: Option<Decided>,
    pub(super) published: Option<PublishedTarget>,
    /// Announcement of a worker that has served, for times when the fleet has no worker.
    pub(super) remembered: Option<Announcement>,
    pub(super) pods: PodHistory,
    pub(super) replicas: Replicas,
    /// Events of pods that are not ready.
    pub(super) events: EventsRead,
    /// Time at which the names of dead workers were last removed.
    pub(super) tidied: Option<Duration>,
    /// Number of consecutive failed turns.
    pub(super) failures: u32,
}

/// The last decision. A decision is valid until its tick ends or the spec changes.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) at: Duration,
    pub(super) generation: Option<i64>,
    pub(super) decision: Decision,
    pub(super) input: FleetInput,
    pub(super) view: FleetView,
}

impl Decided {
    pub(super) fn holds(&self, fleet: &ModelFleet, now: Duration) -> bool {
        self.generation == fleet.metadata.generation && tick(self.at) == tick(now)
    }
}

impl FleetState {
    /// Returns the last view if the fleet is to stay at zero workers for the rest of this tick.
    pub(super) fn at_zero(&self, fleet: &ModelFleet, now: Duration) -> Option<&FleetView> {
        let decided = self.decided.as_ref().filter(|decided| decided.holds(fleet, now))?;
        let is_at_zero = decided.decision.size.floor == 0 && decided.input.ordered == 0;
        is_at_zero.then_some(&decided.view)
    }
}

impl FleetStates {
    /// Takes the state of a fleet out for a turn.
    pub(super) fn take(&self, fleet: &ModelFleet) -> FleetState {
        let uid = fleet.uid().unwrap_or_default();
        let name = [fleet.namespace().unwrap_or_default(), fleet.name_any()];
        self.names.lock().insert(uid.clone(), name);
        self.states.lock().remove(&uid).unwrap_or_default()
    }

    /// Puts the state back after a turn.
    pub(super) fn put(&self, fleet: &ModelFleet, state: FleetState) {
        self.states.lock().insert(fleet.uid().unwrap_or_default(), state);
    }

    /// Returns the uids of all fleets that have had a turn.
    pub(super) fn uids(&self) -> Vec<String> {
        self.names.lock().keys().cloned().collect()
    }

    /// Records the newest version that the workers of a fleet serve.
    pub(super) fn serves(&self, fleet: &ModelFleet, version: u64) {
        self.versions.lock().insert(fleet.uid().unwrap_or_default(), version);
    }

    /// Returns the newest version that the workers of each fleet serve.
    pub(super) fn versions(&self) -> ServedVersions {
        self.versions.lock().clone()
    }

    /// Returns whether a fleet is to stay at zero workers for the rest of this tick.
    pub(super) fn is_at_zero(&self, fleet: &ModelFleet, now: Duration) -> bool {
        let states = self.states.lock();
        let state = states.get(&fleet.uid().unwrap_or_default());
        state.is_some_and(|state| state.at_zero(fleet, now).is_some())
    }

    /// Forgets a deleted fleet. Returns its namespace and its name.
    pub(super) fn forget(&self, uid: &str) -> Option<[String; 2]> {
        self.states.lock().remove(uid);
        self.versions.lock().remove(uid);
        self.names.lock().remove(uid)
    }

    /// Returns the number of consecutive failed turns of a fleet, or 1 if the fleet has no state.
    pub(super) fn failures(&self, fleet: &ModelFleet) -> u32 {
        self.states.lock().get(&fleet.uid().unwrap_or_default()).map_or(1, |state| state.failures)
    }
}

/// Returns the number of the tick at `now`.
fn tick(now: Duration) -> u128 {
    now.as_millis() / TICK.as_millis()
}

/// Returns the time until the next tick.
pub(super) fn next_tick(now: Duration) -> Duration {
    let next = TICK * u32::try_from(tick(now) + 1).unwrap_or(u32::MAX);
    next.saturating_sub(now)
}
