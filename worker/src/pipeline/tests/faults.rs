//! The loop when models, devices, workers and gateways fail.

use super::*;

const LONG: Duration = Duration::from_secs(30);

impl Bench {
    /// Another worker on the same queue, which never announces itself.
    async fn stranger(&self) -> Jobs {
        jobs(&self.broker).await
    }

    /// Lets another worker claim `jobs` of one row each, and die.
    async fn abandon(&self, jobs: usize) -> Vec<RequestId> {
        self.submit_rows(&vec![1; jobs]).await;
        let claimed = self.stranger().await.claims.claim(jobs).await.unwrap();
        assert_eq!(claimed.len(), jobs);
        claimed.into_iter().map(|delivery| delivery.job.id).collect()
    }

    /// The number of requests in each batch that has run so far.
    fn batches(&mut self) -> Vec<usize> {
        std::iter::from_fn(|| self.ran.try_recv().ok()).map(|rows| rows.len()).collect()
    }
}

fn failure(reply: &Reply) -> Option<Failure> {
    reply.outcome.as_ref().err().map(|error| error.failure)
}

/// A bench whose pipeline is busy with a batch, while the test sets up more jobs.
async fn busy_bench(limit: u32) -> Bench {
    let mut bench = Bench::start(plan(limit)).await;
    bench.submit_rows(&[1]).await;
    bench.ran.recv().await.unwrap();
    bench
}

#[tokio::test(start_paused = true)]
async fn only_the_job_that_makes_the_model_fail_gets_the_error() {
    let mut bench = busy_bench(8).await;
    let mut jobs = Vec::new();
    for n in 0..8 {
        let byte = if n == 3 { UNLUCKY } else { 7 };
        jobs.push(bench.submit_of(byte, 1, 1, LONG).await);
    }
    let replies = bench.replies(9).await;
    let failed: Vec<_> = jobs.iter().filter(|id| failure(&replies[id]).is_some()).collect();
    assert_eq!(failed, [&jobs[3]]);
    let error = replies[&jobs[3]].outcome.as_ref().unwrap_err();
    assert_eq!(
        (error.failure, error.message.as_str()),
        (Failure::Model, "the model failed: unlucky")
    );
    // After the first two of four succeeded, the other two must contain the bad job.
    assert_eq!(bench.batches(), [8, 4, 4, 2, 1, 1]);
    assert_eq!(bench.metrics.bisections.get(), 3);
    assert_eq!(bench.metrics.engine_errors(RunFault::Model).get(), 3);
}

#[tokio::test(start_paused = true)]
async fn every_job_that_makes_the_model_fail_gets_the_error_and_no_other() {
    let bench = busy_bench(16).await;
    let mut jobs = Vec::new();
    for n in 0..16 {
        let byte = if [0, 7, 8, 15].contains(&n) { UNLUCKY } else { 7 };
        jobs.push((bench.submit_of(byte, 1, 1, LONG).await, byte == UNLUCKY));
    }
    let replies = bench.replies(17).await;
    for (id, unlucky) in jobs {
        assert_eq!(failure(&replies[&id]).is_some(), unlucky);
    }
}

#[tokio::test(start_paused = true)]
async fn batching_ends_if_outputs_do_not_hold_the_rows_and_every_job_gets_its_own() {
    let mut bench = busy_bench(8).await;
    let mut jobs = Vec::new();
    for byte in [1, DROPPED, 2, 3] {
        jobs.push((bench.submit_of(byte, 1, 1, LONG).await, byte));
    }
    let replies = bench.replies(5).await;
    for (id, byte) in jobs {
        let outputs = &replies[&id].outcome.as_ref().unwrap();
        let rows = u64::from(byte != DROPPED);
        assert_eq!(outputs[0].shape[0], rows, "{byte}");
        assert!(outputs[0].data.iter().all(|&found| found == byte));
    }
    assert_eq!(bench.batches()[..2], [4, 1], "the others run alone after the first batch");
    for byte in [1, DROPPED, DROPPED] {
        bench.submit_of(byte, 2, 1, LONG).await;
    }
    bench.replies(3).await;
    assert!(bench.batches().iter().all(|&requests| requests == 1));
}

#[tokio::test(start_paused = true)]
async fn halves_do_not_run_after_their_deadline() {
    let mut bench = busy_bench(4).await;
    let mut jobs = Vec::new();
    for byte in [UNLUCKY, 7, 7, 7] {
        // The batch begins after one run; then there is time for two more.
        jobs.push(bench.submit_of(byte, 1, 1, RUN * 7 / 2).await);
    }
    let replies = bench.replies(5).await;
    assert_eq!(bench.batches(), [4, 2, 2]);
    let failures: Vec<_> = jobs.iter().map(|id| failure(&replies[id])).collect();
    assert_eq!(failures, [Some(Failure::Expired), Some(Failure::Expired), None, None]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_runs_out_of_memory_runs_in_halves_and_the_next_are_smaller() {
    let mut bench = busy_bench(16).await;
    for _ in 0..32 {
        bench.submit(1, WIDE + 1, LONG).await;
    }
    assert!(bench.replies(33).await.values().all(|reply| failure(reply).is_none()));
    assert_eq!(bench.batches(), [16, 8, 8, 4, 4, 4, 4, 4, 4, 4, 4]);
    assert_eq!(bench.metrics.batch_limit.get(), 4);
    assert_eq!(bench.metrics.engine_errors(RunFault::OutOfMemory).get(), 3);
}

#[tokio::test(start_paused = true)]
async fn after_a_device_is_lost_nothing_is_answered_and_nothing_handed_back() {
    let bench = Bench::start(plan(4)).await;
    bench.submit_of(FATAL, 1, 1, LONG).await;
    let broker = bench.broker.clone();
    let ended = bench.pipeline.await.unwrap();
    assert!(ended.unwrap_err().is_device());
    let backlog = broker.observer().await.unwrap().backlog(&queue()).await.unwrap();
    assert_eq!((backlog.depth(), backlog.in_flight), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_gone_ends_the_pipeline_and_its_batch_is_reclaimed() {
    let bench = Bench::start(plan(4)).await;
    let killer = bench.submit_of(KILLER, 3, 1, LONG).await;
    bench.submit_rows(&[3]).await;
    let stranger = bench.stranger().await;
    let ended = bench.pipeline.await.unwrap();
    assert!(matches!(ended, Err(WorkerError::EngineGone(_))));
    let backlog = bench.broker.observer().await.unwrap().backlog(&queue()).await.unwrap();
    assert_eq!((backlog.depth(), backlog.in_flight), (1, 1));
    sleep(LONG / 30).await;
    let reclaimed = stranger.consumer.reclaim(9).await.unwrap();
    let reclaimed: Vec<_> = reclaimed.iter().map(|d| (d.job.id, d.deliveries)).collect();
    assert_eq!(reclaimed, [(killer, 2)]);
}

#[tokio::test(start_paused = true)]
async fn jobs_of_a_dead_worker_run_alone_within_two_seconds() {
    let mut bench = Bench::start(plan(8)).await;
    let began = Instant::now();
    bench.abandon(3).await;
    bench.replies(3).await;
    assert_eq!(bench.batches(), [1, 1, 1]);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(bench.metrics.reclaimed.get(), 3);
    assert_eq!(bench.metrics.released(Release::Quarantined).get(), 3);
}

#[tokio::test(start_paused = true)]
async fn quarantined_jobs_and_batches_take_turns_however_many_jobs_wait() {
    let mut bench = Bench::start(plan(4)).await;
    bench.abandon(4).await;
    bench.submit_rows(&[1; 100]).await;
    bench.replies(104).await;
    let batches = bench.batches();
    let first = batches.iter().position(|&size| size == 1).unwrap();
    // The worker looks for jobs of dead workers after at most 1.2 s, even between full batches.
    assert!(first <= 12, "{batches:?}");
    assert_eq!(batches[first..first + 7], [1, 4, 1, 4, 1, 4, 1], "{batches:?}");
}

#[tokio::test(start_paused = true)]
async fn if_a_worker_dies_of_a_quarantined_job_no_other_job_is_counted() {
    let bench = Bench::start(plan(8)).await;
    let killer = bench.submit_of(KILLER, 1, 1, LONG).await;
    bench.submit_rows(&[1; 4]).await;
    let mut stranger = bench.stranger().await;
    assert_eq!(stranger.claims.claim(5).await.unwrap().len(), 5);
    assert!(bench.pipeline.await.unwrap().is_err());
    sleep(Duration::from_millis(500)).await;
    for delivery in stranger.consumer.reclaim(5).await.unwrap() {
        let expected = if delivery.job.id == killer { 3 } else { 2 };
        assert_eq!(delivery.deliveries, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_three_workers_died_with_is_answered_and_never_runs() {
    let mut bench = busy_bench(8).await;
    let killer = bench.submit_of(KILLER, 1, 1, LONG).await;
    assert_eq!(bench.stranger().await.claims.claim(1).await.unwrap().len(), 1);
    for deliveries in [2, 3] {
        sleep(Duration::from_millis(500)).await;
        let taken = bench.stranger().await.consumer.reclaim(1).await.unwrap();
        assert_eq!(taken[0].deliveries, deliveries);
    }
    let replies = bench.replies(2).await;
    assert_eq!(failure(&replies[&killer]), Some(Failure::Poison));
    assert_eq!(bench.batches(), [] as [usize; 0]);
    assert_eq!(bench.metrics.jobs(JobOutcome::Poison).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_job_past_its_deadline_is_answered_and_never_runs() {
    let mut bench = busy_bench(8).await;
    let late = bench.submit(1, 1, Duration::from_millis(300)).await;
    assert_eq!(bench.stranger().await.claims.claim(1).await.unwrap().len(), 1);
    let replies = bench.replies(2).await;
    assert_eq!(failure(&replies[&late]), Some(Failure::Expired));
    assert_eq!(bench.batches(), [] as [usize; 0]);
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_for_a_gateway_that_is_gone() {
    let mut bench = busy_bench(4).await;
    let gone = GatewayId::random();
    let roles = bench.broker.gateway(gone).await.unwrap();
    let mine = mem::replace(&mut bench.gateway, gone);
    bench.submit_rows(&[1; 7]).await;
    // A worker claims one job while the job's gateway is alive, then dies.
    let mut dead = jobs(&bench.broker).await;
    assert_eq!(dead.claims.claim(1).await.unwrap().len(), 1);
    drop(roles);
    bench.gateway = mine;
    bench.submit_rows(&[1]).await;
    bench.replies(2).await;
    assert_eq!(bench.batches(), [1]);
    assert_eq!(bench.metrics.jobs(JobOutcome::Orphaned).get(), 6);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.batches(), [] as [usize; 0]);
    assert_eq!(bench.metrics.jobs(JobOutcome::Orphaned).get(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_cannot_be_finished_in_time_is_handed_back() {
    let broker = MemoryBroker::new(1000);
    let jobs = jobs(&broker).await;
    let mut bench = Bench::with(plan(4), broker, jobs, RUN).await;
    bench.submit_rows(&[1, 1]).await;
    bench.ran.recv().await.unwrap();
    bench.shutdown.cancel();
    let began = Instant::now();
    bench.pipeline.await.unwrap().unwrap();
    assert!(began.elapsed() < RUN, "{:?}", began.elapsed());
    let backlog = bench.broker.observer().await.unwrap().backlog(&queue()).await.unwrap();
    assert_eq!((backlog.depth(), backlog.in_flight), (2, 0));
}
