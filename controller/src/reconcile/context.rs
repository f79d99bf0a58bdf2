//! What all turns share, and what is done between turns: deleted fleets are forgotten.

use std::{borrow::Cow, sync::Arc, time::Duration};

use batchfleet_broker::{Controller, Observer, QueueName};
use kube::{
    Client, Resource,
    runtime::events::{Event, Recorder, Reporter},
};
use tokio::{
    sync::watch,
    time::{Instant, interval},
};
use tracing::{debug, info};

use super::fleets::FleetStates;
use crate::{
    cluster::{Cluster, ClusterState},
    crd::ModelFleet,
    metrics::ControllerMetrics,
    model_users::ModelUsers,
    objects::WorkerDefaults,
    snapshot::Snapshots,
};

/// Interval at which the controller looks for deleted fleets.
const DELETED_CHECK: Duration = Duration::from_secs(1);

/// State shared by all turns.
pub(crate) struct Context {
    pub(crate) cluster: Cluster,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) controller: Arc<dyn Controller>,
    pub(crate) defaults: WorkerDefaults,
    /// The Redis users of the workers; `None` if all workers share one user.
    pub(crate) users: Option<Arc<ModelUsers>>,
    pub(crate) events: EventSink,
    pub(crate) metrics: ControllerMetrics,
    /// Whether this process is the leader. The other controllers also observe and decide but do not
    /// write, so that they know the load when they become leader.
    pub(crate) leads: watch::Receiver<bool>,
    pub(crate) started: Instant,
    pub(crate) fleets: FleetStates,
}

impl Context {
    /// Forgets the fleets that were deleted, and their metrics, and retracts their queues. A deleted
    /// fleet has no further turn, unless it has a finalizer.
    pub(crate) async fn forget_deleted(&self) {
        let mut ticks = interval(DELETED_CHECK);
        loop {
            ticks.tick().await;
            for uid in self.fleets.uids() {
                if !self.cluster.has_fleet(&uid) {
                    self.forget(&uid);
                }
            }
            self.retract_abandoned().await;
        }
    }

    /// Retracts the queues that no fleet serves any longer, or renews their retraction.
    async fn retract_abandoned(&self) {
        let is_served = |queue: &QueueName| self.cluster.has_fleet_of(queue);
        let abandoned = self.fleets.served.abandoned(self.started.elapsed(), is_served);
        if !*self.leads.borrow() {
            return;
        }
        for last in abandoned {
            if let Err(error) = self.controller.retract(&last).await {
                debug!(queue = %last.model.queue, %error, "failed to retract queue");
            }
        }
    }

    pub(super) fn forget(&self, uid: &str) {
        if let Some([namespace, name]) = self.fleets.forget(uid) {
            self.metrics.forget([&namespace, &name]);
            info!(namespace, fleet = name, "forgot deleted fleet");
        }
    }

    /// Returns the settings of a fleet's workers.
    pub(super) fn defaults(
        &self,
        fleet: &ModelFleet,
        existing: &ClusterState,
    ) -> Cow<'_, WorkerDefaults> {
        let deployment = existing.deployment.owned();
        let own = self.users.as_ref().and_then(|it| it.redis_of(&fleet.model_name(), deployment));
        match own {
            Some(redis) => Cow::Owned(WorkerDefaults { redis, ..self.defaults.clone() }),
            None => Cow::Borrowed(&self.defaults),
        }
    }
}

/// Publishes events. Each event is a new object: the recorder of `kube` would count an event with
/// another note as a repetition of the first, whose note is then wrong.
pub(crate) struct EventSink {
    pub(crate) client: Client,
    pub(crate) reporter: Reporter,
}

impl EventSink {
    /// Publishes an event about a fleet. Failures are harmless.
    pub(super) async fn publish(&self, fleet: &ModelFleet, event: &Event) {
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        if let Err(error) = recorder.publish(event, &fleet.object_ref(&())).await {
            debug!(%error, "failed to publish event");
        }
    }
}
