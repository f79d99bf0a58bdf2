//! Requests with more rows than N, which run in parts.

use super::*;

const LONG: Duration = Duration::from_secs(30);

impl Bench {
    /// The rows of each request in each batch that has run so far.
    fn rows_by_batch(&mut self) -> Vec<Vec<u32>> {
        std::iter::from_fn(|| self.ran.try_recv().ok()).collect()
    }
}

async fn bench(limit: u32) -> Bench {
    Bench::start(plan(limit)).await
}

#[tokio::test(start_paused = true)]
async fn a_request_larger_than_n_runs_in_parts_and_has_one_reply() {
    let mut bench = bench(8).await;
    let data: Vec<u8> = (100..130).collect();
    let id = bench.submit_data(data.clone(), 30, LONG).await;
    let reply = bench.replies(1).await.remove(&id).unwrap();
    assert_eq!(bench.rows_by_batch(), [[8], [8], [8], [6]]);
    let outputs = reply.outcome.unwrap();
    assert_eq!((&outputs[0].shape[..], &outputs[0].data[..]), (&[30, 1][..], &data[..]));
    let release = Some(Release::Full);
    let compute_infer = RUN * 4;
    assert_eq!(reply.timing, Timing { compute_infer, batch_rows: 8, release, ..Timing::default() });
    assert_eq!(bench.metrics.jobs(JobOutcome::Ok).get(), 1);
    assert_eq!(bench.metrics.batch_wait.get_sample_count(), 1);
    assert_eq!(bench.metrics.released(Release::Oversize).get(), 0);
}

#[tokio::test(start_paused = true)]
async fn small_requests_run_in_each_batch_of_a_large_one() {
    let mut bench = bench(8).await;
    let large = bench.submit(32, 1, LONG).await;
    let mut latencies = Vec::new();
    let mut replied = Vec::new();
    // Four clients that each send a row, and send the next when they are answered.
    while !replied.contains(&large) {
        sleep(RUN / 2).await;
        let sent = Instant::now();
        bench.submit_rows(&[1; 4]).await;
        let mut left = 4;
        while left > 0 {
            for id in bench.replies(1).await.into_keys() {
                left -= usize::from(id != large);
                replied.push(id);
            }
        }
        latencies.push(sent.elapsed());
    }
    // A request waits for the rest of the batch that runs, and for its own batch.
    let batches = bench.rows_by_batch();
    assert!(latencies.iter().all(|&latency| latency <= RUN * 2), "{latencies:?} {batches:?}");
    assert_eq!(batches[..2], [vec![8], vec![1, 1, 1, 1, 4]]);
    assert!(batches.len() <= 7, "{batches:?}");
}

#[tokio::test(start_paused = true)]
async fn small_requests_of_another_shape_take_turns_with_a_large_one() {
    let mut bench = bench(8).await;
    bench.submit(40, 2, LONG).await;
    bench.ran.recv().await.unwrap();
    for _ in 0..3 {
        let sent = Instant::now();
        bench.submit_rows(&[1, 1]).await;
        let waited = bench.replies(2).await;
        assert_eq!(waited.len(), 2);
        assert!(sent.elapsed() <= RUN * 3, "{:?}", sent.elapsed());
    }
    bench.replies(1).await;
    let batches = bench.rows_by_batch();
    assert_eq!(batches.iter().filter(|rows| **rows == [1, 1]).count(), 3, "{batches:?}");
    assert_eq!(batches.len(), 7, "{batches:?}");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_fails_fails_its_request_and_no_other() {
    let mut bench = bench(8).await;
    let mut data = vec![7; 20];
    data[15] = UNLUCKY;
    bench.submit_rows(&[1]).await;
    bench.ran.recv().await.unwrap();
    let large = bench.submit_data(data, 20, LONG).await;
    bench.submit_rows(&[1, 1, 1]).await;
    let replies = bench.replies(5).await;
    for (id, reply) in &replies {
        let failure = reply.outcome.as_ref().err().map(|error| error.failure);
        assert_eq!(failure, (*id == large).then_some(Failure::Model));
    }
    assert_eq!(bench.rows_by_batch(), [&[1, 1, 1, 5][..], &[8], &[7]]);
    assert_eq!(bench.metrics.jobs(JobOutcome::Model).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_neighbour_does_not_fail_a_large_request() {
    let mut bench = bench(8).await;
    bench.submit_rows(&[1]).await;
    bench.ran.recv().await.unwrap();
    let bad = bench.submit_of(UNLUCKY, 1, 1, LONG).await;
    let large = bench.submit(20, 1, LONG).await;
    let replies = bench.replies(3).await;
    assert!(replies[&bad].outcome.is_err());
    assert_eq!(replies[&large].outcome.as_ref().unwrap()[0].shape, [20, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_large_request_that_cannot_be_finished_in_time_runs_no_further() {
    let mut bench = bench(8).await;
    let late = bench.submit(32, 1, RUN * 5 / 2).await;
    let replies = bench.replies(1).await;
    let error = replies[&late].outcome.as_ref().unwrap_err();
    assert_eq!(error.failure, Failure::Expired);
    // The first part corrects the expected time of a batch.
    assert_eq!(bench.rows_by_batch(), [[8]]);
    assert_eq!(replies[&late].timing.compute_infer, RUN);
    assert_eq!(bench.metrics.jobs(JobOutcome::Expired).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_large_request_is_handed_back_whole() {
    let mut bench = bench(8).await;
    bench.submit(32, 1, LONG).await;
    assert_eq!(bench.ran.recv().await.unwrap(), [8]);
    bench.shutdown.cancel();
    bench.pipeline.await.unwrap().unwrap();
    // A claim in flight may take the job once more, and hand it back again.
    assert!(bench.metrics.jobs(JobOutcome::HandedBack).get() >= 1);
    let observer = bench.broker.observer().await.unwrap();
    let backlog = observer.backlog(&queue()).await.unwrap();
    assert_eq!((backlog.depth(), backlog.in_flight), (1, 0));
    let claimed = jobs(&bench.broker).await.claims.claim(1).await.unwrap();
    assert_eq!(claimed[0].job.inputs[0].shape, [32, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_parts_of_a_quarantined_request_run_alone_one_after_the_other() {
    let mut bench = bench(8).await;
    let large = bench.submit(20, 1, LONG).await;
    let mut dead = jobs(&bench.broker).await;
    assert_eq!(dead.claims.claim(1).await.unwrap().len(), 1);
    bench.submit_rows(&[1; 60]).await;
    let replies = bench.replies(61).await;
    assert_eq!(replies[&large].outcome.as_ref().unwrap()[0].shape, [20, 1]);
    assert_eq!(replies[&large].timing.release, Some(Release::Quarantined));
    let batches = bench.rows_by_batch();
    let first = batches.iter().position(|rows| *rows == [8]).unwrap();
    assert_eq!(batches[first..first + 3], [[8], [8], [4]], "{batches:?}");
    assert_eq!(bench.metrics.reclaimed.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_runs_out_of_memory_runs_in_smaller_parts() {
    let mut bench = bench(16).await;
    bench.submit(16, WIDE + 1, LONG).await;
    let replies = bench.replies(1).await;
    assert!(replies.values().all(|reply| reply.outcome.is_ok()));
    assert_eq!(bench.rows_by_batch(), [[16], [8], [4], [4], [4], [4]]);
    assert_eq!(bench.metrics.jobs(JobOutcome::Ok).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn few_large_requests_are_claimed_ahead_of_their_turn() {
    let bench = bench(8).await;
    for _ in 0..20 {
        bench.submit(32, 1, LONG).await;
    }
    sleep(RUN * 30).await;
    let backlog = bench.backlog().await;
    // The worker holds four and runs one.
    assert!(backlog.in_flight <= 5, "{backlog:?}");
    assert_eq!(bench.replies(20).await.len(), 20);
}
