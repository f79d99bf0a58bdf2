//! Tasks that poll announcements and queue depths, and publish this gateway's traffic.

use std::sync::Arc;

use batchfleet_broker::{BrokerError, Look, Observer, Producer};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Duration, Instant, MissedTickBehavior, interval},
};
use tracing::{debug, info, warn};

use crate::{ask::Core, model::Model, model_control::LookNow, roster::Roster};

/// Interval between polls of announcements and queues.
const LOOK: Duration = Duration::from_millis(200);
/// The queue of a model without workers and requests is read at one of so many polls.
const QUIET_LOOKS: usize = 10;
/// The queue of a model with workers and without requests, and the memory of Redis while no request is
/// in flight, are read at one of so many polls.
const IDLE_LOOKS: usize = 5;
/// Interval between traffic reports.
const REPORT: Duration = Duration::from_secs(1);

/// Task: polls announcements and queues, in between also on request, updates the catalogue, admission and
/// metrics, then calls `after`.
pub(crate) async fn look(
    observer: Arc<dyn Observer>,
    core: Arc<Core>,
    mut requests: mpsc::Receiver<LookNow>,
    after: impl Fn(),
) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let started = Instant::now();
    let mut roster = Roster::default();
    let (mut was_reachable, mut looks) = (true, 0);
    loop {
        let request = tokio::select! {
            _ = ticks.tick() => None,
            Some(request) = requests.recv() => Some(request),
        };
        let looked = look_once(observer.as_ref(), &mut roster, &core, (started, looks)).await;
        if let Some(LookNow { model, done }) = request.filter(|_| looked.is_ok()) {
            core.catalog.forget_unserved(&model);
            // A failure means that the runtime is shutting down.
            spawn_blocking(batchfleet_heap::release).await.ok();
            // The client may have left.
            done.send(()).ok();
        }
        looks = looks.wrapping_add(1);
        if let Err(error) = &looked {
            core.metrics.broker_failed(error);
        }
        match &looked {
            Err(error) if was_reachable => warn!(%error, "failed to read the queues"),
            Ok(()) if !was_reachable => info!("queues can be read again"),
            _ => {}
        }
        was_reachable = looked.is_ok();
        core.metrics.fleet.set_outages(&observer.outages());
        core.catalog.all().iter().for_each(|model| model.sample());
        after();
    }
}

async fn look_once(
    observer: &dyn Observer,
    roster: &mut Roster,
    core: &Core,
    (started, look): (Instant, usize),
) -> Result<(), BrokerError> {
    let all = core.catalog.all();
    // Without requests, memory does not fill quickly.
    let is_idle = all.iter().all(|model| model.books.in_flight() == 0);
    let models = all.into_iter().enumerate();
    let models: Vec<_> = models.filter(|(index, model)| is_due(model, *index, look)).collect();
    let queues: Vec<_> = models.iter().map(|(_, model)| model.spec.queue.clone()).collect();
    let asked = Instant::now();
    let Look { news, backlogs, memory } =
        observer.look(&queues, !is_idle || look.is_multiple_of(IDLE_LOOKS)).await?;
    let took = asked.elapsed();
    match news {
        None => {
            // Otherwise it may have been several round trips.
            core.metrics.broker_seconds.observe(took.as_secs_f64());
            roster.is_unchanged(Instant::now());
        }
        Some(snapshot) => {
            if core.catalog.update(roster.complete(snapshot, Instant::now())) > 0 {
                // A failure means that the runtime is shutting down.
                spawn_blocking(batchfleet_heap::release).await.ok();
            }
        }
    }
    for ((_, model), backlog) in models.into_iter().zip(backlogs) {
        core.catalog.observe(&model, started.elapsed(), backlog);
    }
    core.catalog.choose_default_versions(started.elapsed());
    if let Some(memory) = memory {
        core.metrics.fleet.set_memory(&memory);
        core.dispatcher.set_queue_full(observer.is_full(&memory));
    }
    Ok(())
}

/// Whether the queue of a model is read at this poll. Nothing of a model without requests changes
/// quickly; its first request makes the next poll read its queue. The others of several models are not
/// read at the same poll.
fn is_due(model: &Model, index: usize, look: usize) -> bool {
    let every = match (model.is_available(), model.has_requests()) {
        (_, true) => 1,
        (true, false) => IDLE_LOOKS,
        (false, false) => QUIET_LOOKS,
    };
    index % every == look % every
}

/// Task: publishes the traffic of this gateway, from which the controller sizes the fleet.
pub(crate) async fn report(producer: Arc<dyn Producer>, core: Arc<Core>) {
    let mut ticks = interval(REPORT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let models = core.catalog.all();
        for model in &models {
            core.catalog.publish(model);
        }
        let traffic: Vec<_> = models.iter().map(|model| model.books.traffic()).collect();
        if let Err(error) = producer.report(&traffic).await {
            // `look` has already logged the outage.
            debug!(%error, "failed to publish traffic report");
        }
    }
}
