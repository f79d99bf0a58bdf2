//! Tracks which gateways are gone. Their jobs need not run, because no reply would reach a caller.
//!
//! A claim also reports gone gateways, but only gateways known to this worker, and only as of the
//! claim: jobs may be held for several batches afterwards.

use std::{collections::HashMap, sync::Arc, time::Duration};

use batchfleet_broker::{Consumer, Delivery, GatewayId, roles::LIVENESS};
use tokio::time::Instant;

use crate::retry::Outage;

/// How often to ask the broker.
const EVERY: Duration = Duration::from_secs(1);
/// How long to keep asking about a gateway after its last job.
const REMEMBERED: Duration = Duration::from_mins(1);

/// The gateways whose jobs this worker has held recently.
pub(crate) struct Gateways {
    consumer: Arc<dyn Consumer>,
    known: HashMap<GatewayId, Known>,
    ask_at: Instant,
    outage: Outage,
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
        Self { consumer, known: HashMap::new(), ask_at: Instant::now(), outage }
    }

    /// Records the gateways of `jobs`; once a second, asks the broker which gateways are alive.
    pub(crate) async fn look(&mut self, jobs: impl Iterator<Item = &Delivery>) {
        let now = Instant::now();
        let mut any = false;
        for delivery in jobs {
            any = true;
            let known = self.known.entry(delivery.job.gateway);
            known.or_insert(Known { alive: true, seen: now }).seen = now;
        }
        if now < self.ask_at || !any {
            return;
        }
        self.known.retain(|_, known| now - known.seen < REMEMBERED);
        let gateways: Vec<GatewayId> = self.known.keys().copied().collect();
        match self.consumer.gateways_alive(&gateways).await {
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
        self.ask_at = Instant::now() + EVERY;
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
        assert!(gateways.is_gone(job));
    }
}
