//! Waiting for requests that follow answers.

use batchfleet_broker::Guidance;

use super::*;

/// From an answer to the client's next request.
const THINK: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);

impl Bench {
    /// Lets two clients, whose first requests come at different times, send their next request after each
    /// answer. Returns the sizes of the last four batches.
    async fn two_clients(&mut self, answers: usize) -> Vec<usize> {
        self.submit(1, 1, PATIENCE).await;
        sleep(RUN / 2).await;
        self.submit(1, 1, PATIENCE).await;
        let mut answered = 0;
        while answered < answers {
            let count = self.replies(1).await.len();
            sleep(THINK).await;
            for _ in 0..count {
                self.submit(1, 1, PATIENCE).await;
            }
            answered += count;
        }
        let batches: Vec<usize> =
            std::iter::from_fn(|| self.ran.try_recv().ok().map(|rows| rows.len())).collect();
        batches[batches.len() - 4..].to_vec()
    }
}

#[tokio::test(start_paused = true)]
async fn clients_whose_requests_follow_answers_run_together() {
    let mut bench = Bench::start(plan(8)).await;
    assert_eq!(bench.two_clients(40).await, [2; 4]);
    assert!(bench.metrics.released(Release::Linger).get() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_deadline_is_near_does_not_wait_for_others() {
    let mut bench = Bench::start(plan(8)).await;
    bench.two_clients(40).await;
    bench.replies(2).await;
    sleep(THINK).await;
    let began = Instant::now();
    let urgent = bench.submit(1, 1, RUN * 2).await;
    sleep(THINK / 2).await;
    bench.submit(1, 1, PATIENCE).await;
    assert!(bench.replies(1).await.contains_key(&urgent));
    assert_eq!(began.elapsed(), RUN);
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_requests_that_another_worker_could_run() {
    let mut bench = Bench::start(plan(8)).await;
    bench.tuner.lock().adopt(Guidance { workers: Some(2), ..Guidance::default() });
    assert_eq!(bench.two_clients(40).await, [1; 4]);
    assert_eq!(bench.metrics.released(Release::Linger).get(), 0);
}
