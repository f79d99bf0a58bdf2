//! Fetches the inputs that gateways offer instead of sending them through the queue, and pushes large
//! outputs to them.
//!
//! The inputs of all claimed jobs of a gateway are fetched with one request; several gateways are asked
//! at the same time. A job whose inputs do not arrive within a second, or are not those that the
//! gateway has accepted, does not run: its gateway is gone, or submits the job again. Outputs that
//! cannot be pushed travel with their reply.

mod connection;
mod ports;
mod push;

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use batchfleet_broker::{Delivery, Job, offer::MOST_ITEMS};
use futures_util::future::join_all;
use strum::{IntoStaticStr, VariantArray};
use tokio::time::Instant;
use tracing::debug;

pub(crate) use self::push::Pusher;
use self::{connection::Fault, ports::Ports};
use crate::metrics::ModelMetrics;

/// Why the inputs of a job were not fetched. The variant's name is the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum FetchFailure {
    /// The gateway does not have the request any more.
    Gone,
    /// The inputs are not those that the gateway has accepted.
    Digest,
    /// The gateway could not be reached, or closed the connection.
    Unreachable,
    /// The inputs did not arrive in time.
    Timeout,
    /// The answer, or the offer, was invalid.
    Invalid,
}

/// Fetches the inputs of the jobs of one pipeline. Clones share the connections.
#[derive(Clone)]
pub(crate) struct Fetcher {
    metrics: ModelMetrics,
    ports: Ports,
}

impl Fetcher {
    /// Starts without connections.
    pub(crate) fn new(metrics: ModelMetrics) -> Self {
        Self { metrics, ports: Ports::default() }
    }

    /// Fetches the offered inputs of jobs whose gateway waits for them. Jobs whose inputs could not be
    /// fetched still [lack](Job::lacks_inputs) them. Returns how long it took.
    pub(crate) async fn fetch(&self, deliveries: &mut [Delivery]) -> Duration {
        let mut offered = HashMap::<SocketAddr, Vec<&mut Job>>::new();
        for Delivery { job, .. } in deliveries.iter_mut().filter(|delivery| delivery.awaited) {
            if let (true, Some(offer)) = (job.lacks_inputs(), &job.offer) {
                offered.entry(offer.address).or_default().push(job);
            }
        }
        if offered.is_empty() {
            return Duration::ZERO;
        }
        let began = Instant::now();
        join_all(offered.into_iter().map(|(gateway, jobs)| self.fetch_from(gateway, jobs))).await;
        let took = began.elapsed();
        self.metrics.fetch_seconds.observe(took.as_secs_f64());
        took
    }

    async fn fetch_from(&self, gateway: SocketAddr, mut jobs: Vec<&mut Job>) {
        for jobs in jobs.chunks_mut(MOST_ITEMS) {
            let mut left = jobs.len();
            if let Err(fault) = self.request(gateway, jobs, &mut left).await {
                debug!(%gateway, %fault, jobs = left, "failed to fetch inputs");
                self.metrics.fetch_failures(fault.failure()).inc_by(left as u64);
            }
        }
    }

    /// Sends one request, and fills in the inputs of the jobs. Counts down the jobs that are `left`
    /// without an answer.
    async fn request(
        &self,
        gateway: SocketAddr,
        jobs: &mut [&mut Job],
        left: &mut usize,
    ) -> Result<(), Fault> {
        let (mut connection, is_kept) = self.ports.connect(gateway).await?;
        let mut fetched = connection.fetch(jobs, left, &self.metrics).await;
        // The gateway may have closed a kept connection meanwhile, as after a restart.
        if is_kept && fetched.as_ref().is_err_and(Fault::is_stale) {
            connection = self.ports.open(gateway).await?;
            fetched = connection.fetch(jobs, left, &self.metrics).await;
        }
        self.ports.used(gateway, connection, fetched.as_ref().err());
        fetched
    }
}

#[cfg(test)]
mod tests;
