//! Answered requests that run again alone.

use super::*;
use crate::metrics::SentinelFinding;

const MINUTE: Duration = Duration::from_mins(1);

/// Runs a batch of one, then a batch of several rows of these bytes, and waits until the worker is
/// idle.
async fn run_batch(bench: &mut Bench, bytes: &[u8]) {
    bench.submit_rows(&[1]).await;
    bench.ran.recv().await.unwrap();
    for &byte in bytes {
        bench.submit_of(byte, 1, 1, Duration::from_secs(30)).await;
    }
    bench.replies(1 + bytes.len()).await;
    assert_eq!(bench.ran.recv().await.unwrap().len(), bytes.len());
}

fn found(bench: &Bench, finding: SentinelFinding) -> u64 {
    bench.metrics.sentinel(finding).get()
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_repeats_one_answered_request_of_a_batch_a_minute() {
    let mut bench = Bench::start(ServingPlan { sentinel_interval: MINUTE, ..plan(8) }).await;
    run_batch(&mut bench, &[1, 2, 3]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1], "alone, once the queue is empty");
    sleep(RUN * 2).await;
    assert_eq!(found(&bench, SentinelFinding::Same), 1);
    run_batch(&mut bench, &[1, 2, 3]).await;
    sleep(MINUTE * 2).await;
    assert!(bench.ran.try_recv().is_err(), "not again within a minute");
    run_batch(&mut bench, &[1, 2, 3]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1]);
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_again_if_the_sentinel_is_off_or_requests_ran_alone() {
    let mut bench = Bench::start(plan(8)).await;
    run_batch(&mut bench, &[1, 2, 3]).await;
    sleep(MINUTE).await;
    assert!(bench.ran.try_recv().is_err());
    let mut bench = Bench::start(ServingPlan { sentinel_interval: MINUTE, ..plan(8) }).await;
    run_batch(&mut bench, &[1]).await;
    sleep(MINUTE).await;
    assert!(bench.ran.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn batching_ends_after_three_answers_that_depended_on_others() {
    let mut bench = Bench::start(ServingPlan { sentinel_interval: MINUTE, ..plan(8) }).await;
    for differences in 1..=3 {
        assert_eq!(bench.tuner.lock().usual_rows(), 8);
        run_batch(&mut bench, &[1, MIXING, 9]).await;
        sleep(MINUTE * 2).await;
        while bench.ran.try_recv().is_ok() {}
        assert_eq!(found(&bench, SentinelFinding::Different), differences);
    }
    assert_eq!(bench.tuner.lock().usual_rows(), 1);
    bench.submit_rows(&[1, 1, 1]).await;
    for _ in 0..3 {
        assert_eq!(bench.ran.recv().await.unwrap(), [1]);
    }
    // The rows of one request are the caller's own.
    bench.submit_rows(&[3, 1]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [3]);
    assert_eq!(bench.ran.recv().await.unwrap(), [1]);
}
