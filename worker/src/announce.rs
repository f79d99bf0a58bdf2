//! Announces every second that the worker is alive, which model it serves and at what rate. The
//! announcement is withdrawn only after the drain, because other workers reclaim the jobs of an
//! unannounced worker.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{Announcement, Consumer};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    busy::BusyShare, drain::Drain, metrics::ModelMetrics, rescue::LastRenewal, retry::Outage,
    tuner::SharedTuner, watchdog::RunClock,
};

const EVERY: Duration = Duration::from_secs(1);

/// Announces one model.
pub(crate) struct Announcer {
    /// Publishes the announcement.
    pub(crate) consumer: Arc<dyn Consumer>,
    /// The constant part of the announcement.
    pub(crate) announcement: Announcement,
    /// Set by each renewal.
    pub(crate) renewal: LastRenewal,
    /// The source of capacity, N and the reason for N.
    pub(crate) tuner: SharedTuner,
    /// Exports the announced values to Prometheus.
    pub(crate) metrics: ModelMetrics,
    /// Measures the duration of the current run.
    pub(crate) clock: RunClock,
    /// Measures the share of time in which the engine runs.
    pub(crate) busy: BusyShare,
    /// Announcements pause while a run exceeds this time.
    pub(crate) max_batch_time: Duration,
}

impl Announcer {
    /// Renews the announcement until `drained`, then withdraws it. Cancels `announced` after the
    /// first renewal. Once `drain` begins, the announced capacity is 0.
    pub(crate) async fn run(
        mut self,
        announced: CancellationToken,
        drain: Drain,
        drained: CancellationToken,
    ) {
        let mut outage = Outage::new("announce this worker");
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leaving = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = drain.begun(), if !leaving => leaving = true,
                () = drained.cancelled() => break,
            }
            self.metrics.engine_busy.add(self.busy.change());
            if self.clock.busy_for() > self.max_batch_time {
                continue;
            }
            let announcement = self.current(leaving);
            self.metrics.batching.set(&announcement);
            match self.consumer.renew(&announcement).await {
                Ok(()) => {
                    self.renewal.set();
                    outage.over();
                    announced.cancel();
                }
                Err(error) => {
                    self.metrics.broker_failed(&error);
                    outage.failed(&error);
                }
            }
        }
        self.metrics.engine_busy.add(self.busy.end());
        if let Err(error) = self.consumer.retire().await {
            warn!(%error, "failed to withdraw announcement: it expires by itself");
        }
    }

    /// The announcement with its current values.
    fn current(&self, leaving: bool) -> Announcement {
        let tuner = self.tuner.lock();
        let capacity = if leaving { 0.0 } else { tuner.capacity() };
        let (batch_limit, batching) = (tuner.usual_rows(), Some(tuner.report()));
        Announcement { capacity, batch_limit, batching, ..self.announcement.clone() }
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::{
        BatchBound, BatchWish, Broker, Guidance, ModelSpec, ObservedWorker, Observer, QueueName,
        Target, Wish, WorkerId, memory::MemoryBroker,
    };
    use batchfleet_policy::{BatchMode, BatchPolicy, CostModel};
    use batchfleet_service::metrics::MetricGroup;
    use prometheus::Registry;
    use tokio::time::sleep;

    use super::*;
    use crate::{lengths::RowLengths, metrics::WorkerMetrics};

    const LIMIT: Duration = Duration::from_secs(10);

    /// A running announcer, its inputs, and an observer of its announcements.
    struct Bench {
        tuner: SharedTuner,
        clock: RunClock,
        shutdown: CancellationToken,
        drained: CancellationToken,
        observer: Arc<dyn Observer>,
    }

    impl Bench {
        async fn start() -> Self {
            let broker = MemoryBroker::new(10);
            let (worker, queue) = (WorkerId::random(), QueueName::new("m", 1));
            let consumer = broker.worker(queue.clone(), worker).await.unwrap().consumer;
            let model = ModelSpec {
                queue,
                platform: String::new(),
                backend: String::new(),
                max_batch: std::num::NonZeroU32::new(8),
                inputs: Vec::new(),
                outputs: Vec::new(),
            };
            let ten = Duration::from_millis(10);
            let cost = CostModel::from_profile(&[(1, ten), (8, ten)]).unwrap();
            let tuner = SharedTuner::new(
                BatchPolicy::new(BatchMode::Fixed(8), 8, LIMIT),
                cost,
                RowLengths::default(),
            );
            let (clock, shutdown) = (RunClock::default(), CancellationToken::new());
            let metrics = WorkerMetrics::register(&Registry::new()).unwrap();
            let metrics = metrics.of_model(&model.queue, "cpu");
            let announcer = Announcer {
                consumer,
                announcement: Announcement::new(worker, model),
                renewal: LastRenewal::default(),
                tuner: tuner.clone(),
                metrics,
                busy: BusyShare::new(clock.clone(), 1),
                clock: clock.clone(),
                max_batch_time: LIMIT,
            };
            let drained = CancellationToken::new();
            let drain = Drain::new(shutdown.clone(), LIMIT);
            tokio::spawn(announcer.run(CancellationToken::new(), drain, drained.clone()));
            let observer = broker.observer().await.unwrap();
            Self { tuner, clock, shutdown, drained, observer }
        }

        /// Reads the announcement after 1 ms, so that the announcer can react first.
        async fn announced(&self) -> ObservedWorker {
            sleep(Duration::from_millis(1)).await;
            self.observer.fleet().await.unwrap().workers.remove(0)
        }

        /// The announced rows per second and N, and whether the worker counts as alive.
        async fn pace(&self) -> (i64, u32, bool) {
            let ObservedWorker { announcement, live } = self.announced().await;
            let Announcement { capacity, batch_limit, .. } = announcement;
            #[expect(clippy::cast_possible_truncation, reason = "a few hundred rows")]
            let capacity = capacity.round() as i64;
            (capacity, batch_limit, live)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn announces_every_second_how_fast_the_model_is() {
        let bench = Bench::start().await;
        assert_eq!(bench.pace().await, (800, 8, true));
        let wish = Wish { batch: BatchWish::Rows(4), slo_ms: None };
        let target = Some(Target { epoch: 1, wish });
        bench.tuner.lock().adopt(Guidance { workers: None, target });
        bench.tuner.lock().limit(Duration::ZERO);
        sleep(EVERY).await;
        assert_eq!(bench.pace().await, (400, 4, true));
        assert_eq!(
            bench.announced().await.announcement.batching.unwrap().bound,
            BatchBound::Published
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_run_is_not_announced_as_alive() {
        let bench = Bench::start().await;
        let running = bench.clock.begin();
        sleep(EVERY * 9).await;
        assert!(bench.announced().await.live);
        sleep(EVERY * 5).await;
        assert!(!bench.announced().await.live);
        drop(running);
        sleep(EVERY).await;
        assert!(bench.announced().await.live);
    }

    #[tokio::test(start_paused = true)]
    async fn a_draining_worker_has_no_capacity_but_lives_until_it_has_drained() {
        let bench = Bench::start().await;
        bench.announced().await;
        bench.shutdown.cancel();
        assert_eq!(bench.pace().await, (0, 8, true));
        bench.drained.cancel();
        assert!(!bench.announced().await.live);
    }
}
