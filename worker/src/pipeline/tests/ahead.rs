//! The next batch, which is handed to the engine while a batch runs.

use super::*;

const LONG: Duration = Duration::from_secs(30);
/// The next batch is claimed this long before the expected end of a run.
const AHEAD: Duration = Duration::from_millis(1);

impl Bench {
    /// Lets the pipeline claim all jobs without letting time pass.
    async fn claimed(&self) {
        while self.backlog().await.depth() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// A pipeline whose runs take twice as long as expected, and which runs its first batch of `rows`
/// rows. It claimed as many jobs as it asked for, so that it claims ahead.
async fn slow_bench(rows: u32) -> Bench {
    let expected = RUN / 2;
    let cost = CostModel::from_profile(&[(1, expected), (64, expected)]).unwrap();
    let mut bench = Bench::start(ServingPlan { cost, ..plan(rows) }).await;
    bench.submit_rows(&vec![1; rows as usize]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), vec![1; rows as usize]);
    bench
}

#[tokio::test(start_paused = true)]
async fn jobs_are_added_to_the_next_batch_until_the_run_should_end() {
    let mut bench = Bench::start(plan(4)).await;
    bench.submit_rows(&[1; 6]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 4]);
    sleep(RUN.saturating_sub(AHEAD)).await;
    bench.claimed().await;
    bench.submit_rows(&[2]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_found_nothing_for_one_batch_is_made_again_for_the_next() {
    let mut bench = Bench::start(plan(4)).await;
    for _ in 0..8 {
        // The claim for more jobs of the next batch times out at the end of this run.
        bench.submit_rows(&[1]).await;
        assert_eq!(bench.ran.recv().await.unwrap(), [1]);
        sleep(RUN / 2).await;
    }
    bench.submit_rows(&[1]).await;
    sleep((RUN / 2).saturating_sub(AHEAD)).await;
    bench.claimed().await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1]);
}

#[tokio::test(start_paused = true)]
async fn no_more_jobs_than_n_rows_are_added_and_none_of_another_shape() {
    let mut bench = Bench::start(plan(4)).await;
    bench.submit_rows(&[1; 5]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 4]);
    sleep(RUN.saturating_sub(AHEAD)).await;
    bench.claimed().await;
    bench.submit(1, 5, LONG).await;
    bench.submit_rows(&[3, 1]).await;
    let mut batches = Vec::new();
    for _ in 0..3 {
        batches.push(bench.ran.recv().await.unwrap());
    }
    assert_eq!(batches.iter().flatten().sum::<u32>(), 6);
    assert!(batches.iter().all(|rows| rows.iter().sum::<u32>() <= 4), "{batches:?}");
    assert!(batches.contains(&vec![1]), "the other shape runs alone: {batches:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_expires_before_the_engine_begins_it_is_answered_and_not_run() {
    let mut bench = slow_bench(4).await;
    let late = bench.submit(1, 1, RUN * 3 / 4).await;
    bench.submit_rows(&[2]).await;
    sleep(RUN / 2).await;
    assert_eq!(bench.backlog().await.depth(), 0, "claimed");
    let replies = bench.replies(6).await;
    assert_eq!(replies[&late].outcome.as_ref().unwrap_err().failure, Failure::Expired);
    assert_eq!(bench.ran.recv().await.unwrap(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_which_every_job_has_expired_does_not_run() {
    let mut bench = slow_bench(4).await;
    let late = bench.submit(1, 1, RUN * 3 / 4).await;
    sleep(RUN / 2).await;
    assert_eq!(bench.backlog().await.depth(), 0, "claimed");
    let replies = bench.replies(5).await;
    assert_eq!(replies[&late].outcome.as_ref().unwrap_err().failure, Failure::Expired);
    bench.submit_rows(&[3]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [3]);
}

#[tokio::test(start_paused = true)]
async fn the_next_batch_is_handed_back_when_the_drain_begins() {
    let mut bench = slow_bench(4).await;
    bench.submit_rows(&[1, 1]).await;
    sleep(RUN * 3 / 4).await;
    assert_eq!(bench.backlog().await.depth(), 0, "claimed");
    bench.shutdown.cancel();
    bench.pipeline.await.unwrap().unwrap();
    assert_eq!(bench.ran.recv().await, None);
    assert_eq!(bench.metrics.jobs(JobOutcome::HandedBack).get(), 2);
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_run_its_parts_run_before_the_next_batch() {
    let mut bench = slow_bench(4).await;
    bench.submit_of(UNLUCKY, 1, 1, LONG).await;
    bench.submit_rows(&[1, 1, 1, 3]).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 4]);
    bench.replies(9).await;
    let batches: Vec<_> = std::iter::from_fn(|| bench.ran.try_recv().ok()).collect();
    assert_eq!(batches.last(), Some(&vec![3]), "{batches:?}");
    assert!(batches.len() > 2, "{batches:?}");
}

#[tokio::test(start_paused = true)]
async fn large_inputs_are_joined_during_the_run_before_and_each_caller_gets_its_own() {
    let mut bench = Bench::start(plan(4)).await;
    let large = |byte: u8| vec![byte; 100_000];
    // All rows are wide, so that they run in batches of at most four.
    let mut asked = Vec::new();
    for byte in 0..12 {
        asked.push((bench.submit_data(large(byte), 1, LONG).await, byte));
    }
    let replies = bench.replies(asked.len()).await;
    for (id, byte) in asked {
        let outputs = replies[&id].outcome.as_ref().unwrap();
        assert!(outputs[0].data.len() == 100_000 && outputs[0].data.iter().all(|&b| b == byte));
    }
    let mut rows = 0;
    while let Ok(batch) = bench.ran.try_recv() {
        rows += batch.iter().sum::<u32>();
    }
    assert_eq!(rows, 12);
}
