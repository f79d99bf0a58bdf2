//! Waiting for more jobs.

use super::*;
use crate::pipeline::pace::TOP_UP;

const LINGER: Duration = Duration::from_millis(30);

async fn bench(limit: u32) -> Bench {
    Bench::start(ServingPlan { linger: LINGER, ..plan(limit) }).await
}

#[tokio::test(start_paused = true)]
async fn linger_waits_once_for_more_jobs() {
    let mut bench = bench(8).await;
    let began = Instant::now();
    bench.submit_rows(&[1]).await;
    sleep(LINGER / 2).await;
    bench.submit_rows(&[1, 1]).await;
    bench.replies(3).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [1; 3]);
    assert_eq!(began.elapsed(), LINGER + RUN);
    assert_eq!(bench.metrics.released(Release::Linger).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn linger_does_not_hold_up_a_full_batch_and_ends_without_more_jobs() {
    let mut bench = bench(2).await;
    let began = Instant::now();
    bench.submit_rows(&[2]).await;
    bench.replies(1).await;
    assert_eq!(began.elapsed(), RUN);
    bench.submit_rows(&[1]).await;
    bench.replies(1).await;
    assert_eq!(began.elapsed(), RUN + LINGER + RUN);
    assert_eq!(bench.ran.recv().await.unwrap(), [2]);
}

#[tokio::test(start_paused = true)]
async fn linger_ends_when_the_batch_is_full() {
    let bench = bench(3).await;
    let began = Instant::now();
    bench.submit_rows(&[1]).await;
    sleep(LINGER / 3).await;
    bench.submit_rows(&[2]).await;
    bench.replies(2).await;
    assert_eq!(began.elapsed(), LINGER / 3 + RUN);
}

#[tokio::test(start_paused = true)]
async fn nothing_lingers_while_jobs_of_other_shapes_can_run() {
    let mut bench = bench(8).await;
    let (began, patience) = (Instant::now(), Duration::from_secs(30));
    bench.submit(1, 1, patience).await;
    sleep(LINGER / 3).await;
    for width in 2..17 {
        bench.submit(1, width, patience).await;
    }
    bench.replies(16).await;
    // The last batches do not linger either, because their jobs have waited longer than that. Once
    // the held jobs would fit into a batch, the worker looks for more, unless it has looked during
    // the run.
    let least = LINGER / 3 + RUN * 16;
    assert!((least..=least + TOP_UP).contains(&began.elapsed()), "{:?}", began.elapsed());
    let batches = std::iter::from_fn(|| bench.ran.try_recv().ok());
    assert!(batches.eq(std::iter::repeat_n(vec![1], 16)));
}
