//! A broker whose first calls fail, or which answers slowly.

use super::*;

/// Fails while `failures` is not 0, and counts it down.
fn shake(failures: &AtomicUsize) -> Result<(), BrokerError> {
    let left =
        failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    left.map_or(Ok(()), |_| Err(BrokerError::unreachable("gone")))
}

/// Claims that fail the first `failures` times.
struct ShakyClaims {
    claims: Box<dyn Claims>,
    failures: AtomicUsize,
}

#[async_trait]
impl Claims for ShakyClaims {
    async fn claim_within(
        &mut self,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, BrokerError> {
        shake(&self.failures)?;
        self.claims.claim_within(limit, wait).await
    }
}

/// A consumer that fails the first `settlements` calls to settle and the first `returns` calls to
/// hand back, and which answers questions about other workers and gateways after `answers`.
struct Shaky {
    consumer: Arc<dyn Consumer>,
    settlements: AtomicUsize,
    returns: AtomicUsize,
    answers: Duration,
}

#[async_trait]
impl Consumer for Shaky {
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<usize, BrokerError> {
        shake(&self.settlements)?;
        self.consumer.settle(settlements).await
    }

    async fn reclaim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        self.consumer.reclaim(limit).await
    }

    async fn can_reclaim(&self) -> Result<bool, BrokerError> {
        sleep(self.answers).await;
        self.consumer.can_reclaim().await
    }

    async fn gateways_alive(&self, gateways: &[GatewayId]) -> Result<Vec<bool>, BrokerError> {
        sleep(self.answers).await;
        self.consumer.gateways_alive(gateways).await
    }

    async fn renew_leases(&self, entries: &[EntryId]) -> Result<(), BrokerError> {
        self.consumer.renew_leases(entries).await
    }

    async fn hand_back(&self, deliveries: Vec<Delivery>) -> Result<(), BrokerError> {
        shake(&self.returns)?;
        self.consumer.hand_back(deliveries).await
    }

    async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        self.consumer.renew(announcement).await
    }

    async fn leave(&self) -> Result<(), BrokerError> {
        self.consumer.leave().await
    }

    async fn retire(&self) -> Result<(), BrokerError> {
        self.consumer.retire().await
    }
}

async fn shaky_bench(claims: usize, settlements: usize, returns: usize) -> Bench {
    let broker = MemoryBroker::new(1000);
    let Jobs { claims: steady, consumer, renewal } = jobs(&broker).await;
    let [failures, settlements, returns] = [claims, settlements, returns].map(AtomicUsize::new);
    let claims = Box::new(ShakyClaims { claims: steady, failures });
    let consumer = Arc::new(Shaky { consumer, settlements, returns, answers: Duration::ZERO });
    Bench::with(plan(4), broker, Jobs { claims, consumer, renewal }, DRAIN).await
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_sent_again_until_the_broker_takes_it() {
    let bench = shaky_bench(0, 5, 0).await;
    bench.submit_rows(&[1]).await;
    bench.replies(1).await;
    assert_eq!(bench.metrics.jobs(JobOutcome::Ok).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_given_up_after_its_deadline() {
    let bench = shaky_bench(0, usize::MAX, 0).await;
    bench.submit(1, 1, Duration::from_secs(20)).await;
    sleep(Duration::from_secs(19)).await;
    assert_eq!(bench.metrics.jobs(JobOutcome::Unanswered).get(), 0);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(bench.metrics.jobs(JobOutcome::Unanswered).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn claims_are_retried_until_the_broker_is_back() {
    let bench = shaky_bench(5, 0, 0).await;
    bench.submit_rows(&[1]).await;
    bench.replies(1).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_an_unreachable_broker() {
    let bench = shaky_bench(usize::MAX, 0, 0).await;
    sleep(RUN).await;
    bench.shutdown.cancel();
    bench.pipeline.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn handing_back_is_retried_until_the_broker_takes_the_jobs() {
    let mut bench = shaky_bench(0, 0, 5).await;
    bench.submit_rows(&[3, 3]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [3]);
    bench.shutdown.cancel();
    bench.pipeline.await.unwrap().unwrap();
    assert_eq!(bench.metrics.jobs(JobOutcome::HandedBack).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_engine_does_not_wait_for_answers_about_other_workers_and_gateways() {
    let broker = MemoryBroker::new(1000);
    let Jobs { claims, consumer, renewal } = jobs(&broker).await;
    let [settlements, returns] = [0, 0].map(AtomicUsize::new);
    let consumer = Arc::new(Shaky { consumer, settlements, returns, answers: RUN / 2 });
    let bench = Bench::with(plan(4), broker, Jobs { claims, consumer, renewal }, DRAIN).await;
    let began = Instant::now();
    // The batches take longer than a gateway without a sign of life is trusted.
    bench.submit_rows(&[1; 160]).await;
    bench.replies(160).await;
    assert_eq!(began.elapsed(), RUN * 40);
}
