//! When the next batch is claimed, and how many jobs.

use batchfleet_broker::Guidance;

use super::*;

#[tokio::test(start_paused = true)]
async fn the_next_batch_is_claimed_just_before_the_expected_end_of_a_run_if_jobs_wait() {
    // The run takes longer than expected, so that the test can check the queue
    // before the run ends.
    let expected = RUN / 2;
    let cost = CostModel::from_profile(&[(1, expected), (64, expected)]).unwrap();
    let mut bench = Bench::start(ServingPlan { cost, ..plan(4) }).await;
    bench.tuner.lock().adopt(Guidance { workers: Some(2), target: None });
    let observer = bench.broker.observer().await.unwrap();
    let waiting = async || observer.backlog(&queue()).await.unwrap().depth();
    bench.submit_rows(&[1; 8]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 4]);
    sleep(expected * 9 / 10).await;
    assert_eq!(waiting().await, 4, "another worker may be free sooner");
    sleep(expected / 10).await;
    assert_eq!(waiting().await, 0);
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 4]);
    bench.submit_rows(&[1; 2]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 2]);
    // A claim that returns fewer jobs than requested shows that no more jobs wait.
    bench.submit_rows(&[1]).await;
    sleep(RUN * 9 / 10).await;
    assert_eq!(waiting().await, 1);
}

#[tokio::test(start_paused = true)]
async fn the_only_worker_claims_before_the_end_of_a_run_although_no_jobs_seemed_to_wait() {
    let mut bench = Bench::start(plan(4)).await;
    bench.submit_rows(&[1]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1]);
    bench.submit_rows(&[1, 1]).await;
    sleep(RUN * 9 / 10).await;
    assert_eq!(bench.backlog().await.depth(), 2, "more may come");
    sleep(RUN / 10).await;
    assert_eq!(bench.backlog().await.depth(), 0);
    assert_eq!(bench.ran.recv().await.unwrap(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_only_worker_has_a_batch_early_in_a_short_run_and_fills_it_up_near_the_end() {
    // The run takes longer than expected, so that the test can check the queue meanwhile.
    let short = Duration::from_millis(4);
    let cost = CostModel::from_profile(&[(1, short), (64, short)]).unwrap();
    let mut bench = Bench::start(ServingPlan { cost, ..plan(8) }).await;
    bench.submit_rows(&[1; 4]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 4]);
    bench.submit_rows(&[1]).await;
    sleep(short / 4).await;
    assert_eq!(bench.backlog().await.depth(), 0, "the engine has a batch");
    bench.submit_rows(&[1, 1]).await;
    sleep(short / 4).await;
    assert_eq!(bench.backlog().await.depth(), 2, "more may come");
    sleep(short / 2).await;
    assert_eq!(bench.backlog().await.depth(), 0);
    assert_eq!(bench.ran.recv().await.unwrap(), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_published_target_applies_from_the_next_claim_on() {
    let broker = MemoryBroker::new(1000);
    let roles = broker.worker(queue(), WorkerId::random()).await.unwrap();
    let WorkerRoles { claims, consumer, mut target } = roles;
    let jobs = Jobs { claims, consumer, renewal: LastRenewal::default() };
    let mut bench = Bench::with(plan(4), broker, jobs, DRAIN).await;
    bench.submit_rows(&[1; 14]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 4]);
    let wish = Wish { batch: BatchWish::Rows(6), slo_ms: None };
    bench.broker.controller().await.unwrap().publish(&queue(), wish).await.unwrap();
    let guidance = target.guidance().await.unwrap();
    bench.tuner.lock().adopt(guidance);
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 6]);
    assert_eq!(bench.metrics.batch_limit.get(), 6);
}
