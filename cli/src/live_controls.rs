//! What people try out on the live page of `batchfleet serve`: callers that load a model over real
//! connections, and another latency target.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use batchfleet_broker::{BatchWish, Controller, QueueName, Wish};
use batchfleet_gateway::LiveControls;
use batchfleet_loadgen::{
    Length, LoadError, Plan, Sampled, Stop, Target,
    infer::Encoding,
    model::{Choice, Metadata},
    run,
};
use tokio::sync::watch::Receiver;
use tracing::warn;

/// How long this process is given to describe a model to itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than anybody looks at a page.
const LENGTH: Duration = Duration::from_hours(24);
/// How many different inputs callers send.
const INPUTS: usize = 64;
/// One row, moderate sizes where a model leaves them open, and small whole numbers.
const CHOICE: Choice = Choice { rows: 1, free: 64, most: 100 };

/// Callers at work; they stop when this is dropped, and hear what they have asked.
struct Callers(Stop);

impl Drop for Callers {
    fn drop(&mut self) {
        self.0.now();
    }
}

/// Does what the page wants, until nobody can want anything any more.
pub(crate) async fn follow(
    mut wishes: Receiver<LiveControls>,
    server: SocketAddr,
    controller: Arc<dyn Controller>,
) {
    let mut now = LiveControls::default();
    let mut at_work: Option<Callers> = None;
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
            drop(at_work.take());
            if let Some(queue) = wish.queue.as_ref().filter(|_| wish.callers > 0) {
                at_work = Some(callers(server, queue.clone(), wish.callers));
            }
        }
        now = wish;
    }
}

/// Tells the worker which latency target to go by; its own, if it is none.
async fn publish(controller: &dyn Controller, queue: &QueueName, slo: Option<Duration>) {
    let slo_ms = slo.map(|slo| slo.as_secs_f64() * 1e3);
    let wish = Wish { batch: BatchWish::Own, slo_ms };
    if let Err(error) = controller.publish(queue, wish).await {
        warn!(%queue, %error, "the live page's latency target was not published");
    }
}

/// Sets callers to work.
fn callers(server: SocketAddr, queue: QueueName, users: usize) -> Callers {
    let stop = Stop::default();
    let (until, asked) = (stop.clone(), queue.to_string());
    tokio::spawn(async move {
        if let Err(error) = load(server, &queue, users, until).await {
            warn!(queue = asked, %error, "the live page's callers have stopped");
        }
    });
    Callers(stop)
}

/// So many users, each asking again when it has been answered, until `stop`.
async fn load(
    server: SocketAddr,
    queue: &QueueName,
    users: usize,
    stop: Stop,
) -> Result<(), LoadError> {
    let ip = if server.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { server.ip() };
    let target: Target = format!("http://{}", SocketAddr::new(ip, server.port())).parse()?;
    let metadata = Metadata::of(&target, &queue.model, PATIENCE).await?;
    let workload = Sampled::draw(&metadata, Encoding::Binary, INPUTS, CHOICE)?;
    let length = Length::Time(LENGTH);
    let plan = Plan::new(target, Arc::new(workload), 0);
    run(Plan { users, length, honour_retry_after: true, stop, ..plan }).await.map(drop)
}
