//! The controls of the live page of `batchfleet serve`: callers that load a model over HTTP, and
//! the latency target.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use batchfleet_broker::{BatchWish, Controller, QueueName, Wish};
use batchfleet_gateway::LiveControls;
use batchfleet_loadgen::{
    Length, LoadError, LoadPlan, Sampled, Stop, Target,
    infer::Encoding,
    model::{Metadata, SampleShape},
    run,
};
use tokio::sync::watch::Receiver;
use tracing::warn;

/// Timeout of the request for the metadata of a model.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Upper bound of the callers' running time.
const LENGTH: Duration = Duration::from_hours(24);
/// The number of different random inputs.
const INPUTS: usize = 64;
/// One row, moderate sizes of open dimensions, and small integers.
const SHAPE: SampleShape = SampleShape { rows: 1, free: 64, most: 100 };

/// Running callers. After the drop no more requests are sent; answers to requests in flight are
/// still awaited.
struct Callers(Stop);

impl Drop for Callers {
    fn drop(&mut self) {
        self.0.now();
    }
}

/// Applies the settings of the page, until the gateway drops its end of the channel.
pub(crate) async fn follow(
    mut wishes: Receiver<LiveControls>,
    server: SocketAddr,
    controller: Arc<dyn Controller>,
) {
    let mut now = LiveControls::default();
    let mut running: Option<Callers> = None;
    while wishes.changed().await.is_ok() {
        let wish = wishes.borrow_and_update().clone();
        let moved = wish.queue != now.queue;
        if let Some(left) = now.queue.as_ref().filter(|_| moved && now.slo.is_some()) {
            publish(controller.as_ref(), left, None).await;
        }
        if let Some(queue) = wish.queue.as_ref().filter(|_| moved || wish.slo != now.slo) {
            publish(controller.as_ref(), queue, wish.slo).await;
        }
        if moved || wish.callers != now.callers {
            drop(running.take());
            if let Some(queue) = wish.queue.as_ref().filter(|_| wish.callers > 0) {
                running = Some(callers(server, queue.clone(), wish.callers));
            }
        }
        now = wish;
    }
}

/// Publishes a latency target for the workers of a queue. With `None` each worker uses its
/// configured target.
async fn publish(controller: &dyn Controller, queue: &QueueName, slo: Option<Duration>) {
    let slo_ms = slo.map(|slo| slo.as_secs_f64() * 1e3);
    let wish = Wish { batch: BatchWish::Own, slo_ms };
    if let Err(error) = controller.publish(queue, wish).await {
        warn!(%queue, %error, "failed to publish the latency target of the live page");
    }
}

/// Starts callers in a task of their own.
fn callers(server: SocketAddr, queue: QueueName, users: usize) -> Callers {
    let stop = Stop::default();
    let (until, asked) = (stop.clone(), queue.to_string());
    tokio::spawn(async move {
        if let Err(error) = load(server, &queue, users, until).await {
            warn!(queue = asked, %error, "callers of the live page failed");
        }
    });
    Callers(stop)
}

/// Runs a closed loop of `users`, until `stop`.
async fn load(
    server: SocketAddr,
    queue: &QueueName,
    users: usize,
    stop: Stop,
) -> Result<(), LoadError> {
    let ip = if server.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { server.ip() };
    let target: Target = format!("http://{}", SocketAddr::new(ip, server.port())).parse()?;
    let metadata = Metadata::of(&target, &queue.model, TIMEOUT).await?;
    let workload = Sampled::draw(&metadata, Encoding::Binary, INPUTS, SHAPE)?;
    let length = Length::Time(LENGTH);
    let plan = LoadPlan::new(target, Arc::new(workload), 0);
    run(LoadPlan { users, length, honour_retry_after: true, stop, ..plan }).await.map(drop)
}
