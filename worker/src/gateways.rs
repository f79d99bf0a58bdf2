//! Tracks which gateways are gone. Their jobs need not run, because no reply would reach a caller.
//!
//! A claim also reports gone gateways, but only gateways known to this worker, and only as of the
//! claim: jobs may be held for several batches afterwards.

use std::{collections::HashMap, panic, sync::Arc, time::Duration};

use batchfleet_broker::{BrokerError, Consumer, Delivery, GatewayId, roles::LIVENESS};
use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};

use crate::retry::Outage;

/// How often to ask the broker.
const EVERY: Duration = Duration::from_secs(1);
/// How long an answer is used. A gateway that was cut off may be back.
const USED_FOR: Duration = Duration::from_secs(2);
/// How long to keep asking about a gateway after its last job.
const REMEMBERED: Duration = Duration::from_mins(1);

/// The gateways whose jobs this worker has held recently.
///
/// The broker is asked in the background, so that the engine does not wait for its answer.
pub(crate) struct Gateways {
    consumer: Arc<dyn Consumer>,
    known: HashMap<GatewayId, Known>,
    /// When the broker last answered.
    answered_at: Option<Instant>,
    /// The question that the broker has not answered yet.
    question: JoinSet<Answer>,
    outage: Outage,
}

/// What the broker answered.
struct Answer {
    gateways: Vec<GatewayId>,
    /// Which of them live.
    alive: Result<Vec<bool>, BrokerError>,
    at: Instant,
}

struct Known {
    /// As last reported by the broker; true before the first report.
    alive: bool,
    seen: Instant,
}

impl Gateways {
    /// Starts without known gateways.
    pub(crate) fn new(consumer: Arc<dyn Consumer>) -> Self {
        let outage = Outage::new("check which gateways live");
        let (known, question) = (HashMap::new(), JoinSet::new());
        Self { consumer, known, answered_at: None, question, outage }
    }

    /// Records the gateways of `jobs`; once a second, asks the broker which gateways are alive. Waits
    /// for the answer only if the last one is too old and a job may have lost its gateway.
    pub(crate) async fn look(&mut self, jobs: impl Iterator<Item = &Delivery>) {
        let now = Instant::now();
        if let Some(answer) = self.question.try_join_next() {
            self.answered(answer);
        }
        let (mut any, mut any_old) = (false, false);
        for delivery in jobs {
            any = true;
            any_old |= delivery.age() >= LIVENESS;
            let known = self.known.entry(delivery.job.gateway);
            known.or_insert(Known { alive: true, seen: now }).seen = now;
        }
        let is_older = |age| self.answered_at.is_none_or(|at| now.duration_since(at) >= age);
        if !any || !is_older(EVERY) {
            return;
        }
        let waits = any_old && is_older(USED_FOR);
        if self.question.is_empty() {
            self.ask(now);
        }
        if waits && let Some(answer) = self.question.join_next().await {
            self.answered(answer);
        }
    }

    fn ask(&mut self, now: Instant) {
        self.known.retain(|_, known| now - known.seen < REMEMBERED);
        let gateways: Vec<GatewayId> = self.known.keys().copied().collect();
        let consumer = Arc::clone(&self.consumer);
        self.question.spawn(async move {
            let alive = consumer.gateways_alive(&gateways).await;
            Answer { gateways, alive, at: Instant::now() }
        });
    }

    fn answered(&mut self, answer: Result<Answer, JoinError>) {
        let Answer { gateways, alive, at } = match answer.map_err(JoinError::try_into_panic) {
            Ok(answer) => answer,
            Err(Ok(panic)) => panic::resume_unwind(panic),
            Err(Err(_cancelled)) => return,
        };
        self.answered_at = Some(at);
        match alive {
            Ok(alive) => {
                self.outage.over();
                for (gateway, alive) in gateways.iter().zip(alive) {
                    self.known.entry(*gateway).and_modify(|known| known.alive = alive);
                }
            }
            // Without a report, all gateways count as alive: at worst, jobs run in vain.
            Err(error) => {
                self.outage.failed(&error);
                self.known.clear();
            }
        }
    }

    /// Whether the job's gateway is gone. A job younger than the liveness period proves that its
    /// gateway was alive recently, regardless of the broker's report.
    pub(crate) fn is_gone(&self, delivery: &Delivery) -> bool {
        delivery.age() >= LIVENESS
            && self.known.get(&delivery.job.gateway).is_some_and(|known| !known.alive)
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{
        Broker, Job, Priority, QueueName, RequestId, WorkerId, WorkerRoles, memory::MemoryBroker,
    };
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_job_added_a_moment_ago_proves_that_its_gateway_lives() {
        let (broker, queue) = (MemoryBroker::new(10), QueueName::new("m", 1));
        let worker = broker.worker(queue.clone(), WorkerId::random()).await.unwrap();
        let WorkerRoles { mut claims, consumer, .. } = worker;
        let job = Job {
            id: RequestId::random(),
            gateway: GatewayId::random(),
            attempt: 0,
            priority: Priority::Default,
            ttl: Duration::from_secs(30),
            rows: 1,
            digest: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
            trace: None,
            classes: Vec::new(),
            offer: None,
        };
        let gateway = broker.gateway(job.gateway).await.unwrap();
        gateway.producer.submit(&queue, &job).await.unwrap();
        drop(gateway);
        let jobs = claims.claim(1).await.unwrap();
        let mut gateways = Gateways::new(consumer);
        gateways.look(jobs.iter()).await;
        let [job] = &jobs[..] else { panic!("not claimed") };
        assert!(!gateways.is_gone(job));
        sleep(LIVENESS).await;
        // The first answer came in the background and is out of date.
        gateways.look(jobs.iter()).await;
        assert!(gateways.is_gone(job));
    }
}
