//! Leader election among controllers with a Kubernetes Lease, using the algorithm of client-go.
//!
//! A lease that is not renewed for its duration expires. The clocks of machines differ, so each
//! candidate measures the duration with its own clock, from the last change of the lease that the
//! candidate observed. A leader that cannot renew the lease stops before another candidate may take
//! over.
//!
//! Existing crates do not fit. `kube-lease-manager` 0.13 compares the leader's `renewTime` with the
//! local wall clock, so two controllers lead at the same time if their clocks differ by more than
//! the lease duration. `kube` has no leader election.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};
use tokio::{
    sync::watch,
    time::{Instant, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Another candidate may take over a lease that has not changed for this time.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that has not renewed the lease for this time stops leading.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the leader renews the lease, and the other candidates read it.
const PERIOD: Duration = Duration::from_secs(2);

/// A controller that may become leader.
pub(crate) struct LeaderCandidate {
    api: Api<Lease>,
    name: String,
    /// Unique identity of this process.
    identity: String,
    /// Version of the lease at the last read, and the time at which this version was first read.
    observed: Option<(String, Instant)>,
    /// When this process last renewed the lease; `None` while this process is not the leader.
    renewed: Option<Instant>,
}

impl LeaderCandidate {
    pub(crate) fn new(api: Api<Lease>, name: &str, identity: String) -> Self {
        Self { api, name: name.to_owned(), identity, observed: None, renewed: None }
    }

    /// Takes part in the election until shutdown, and publishes whether this process leads.
    pub(crate) async fn run(mut self, leads: watch::Sender<bool>, shutdown: CancellationToken) {
        let mut ticks = interval(PERIOD);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            match timeout(PERIOD, self.step()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "failed to renew or read the lease"),
                Err(_) => warn!("failed to renew or read the lease: timed out"),
            }
            let leading = self.is_leading();
            if leads.send_replace(leading) != leading {
                info!(leading, identity = self.identity, "leadership changed");
            }
        }
        leads.send_replace(false);
        if let Err(error) = timeout(PERIOD, self.release()).await {
            debug!(%error, "failed to release the lease, it will expire");
        }
    }

    /// Returns whether this process leads. While this process leads, no other process can.
    pub(crate) fn is_leading(&self) -> bool {
        self.renewed.is_some_and(|at| at.elapsed() < RENEW_DEADLINE)
    }

    /// Renews the lease, or takes it over if it is free.
    pub(crate) async fn step(&mut self) -> Result<(), kube::Error> {
        // Taken before the request, because the response may be slow.
        let started = Instant::now();
        let lease = self.api.get_opt(&self.name).await?;
        let Some(next) = self.next(lease.as_ref(), started) else {
            self.renewed = None;
            return Ok(());
        };
        let written = match lease {
            None => self.api.create(&PostParams::default(), &next).await,
            // The request contains the version that was read, so of two simultaneous writes one is
            // refused.
            Some(_) => self.api.replace(&self.name, &PostParams::default(), &next).await,
        };
        match written {
            Ok(_) => self.renewed = Some(started),
            Err(kube::Error::Api(refusal)) if refusal.code == 409 => self.renewed = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Returns the lease to write, or `None` while another candidate holds the lease.
    fn next(&mut self, current: Option<&Lease>, now: Instant) -> Option<Lease> {
        let time = Some(MicroTime(Timestamp::now()));
        let mut lease = current.cloned().unwrap_or_default();
        lease.metadata.name = Some(self.name.clone());
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty());
        if holder.as_deref() != Some(&self.identity) {
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let since = match &self.observed {
                Some((observed, since)) if *observed == version => *since,
                _ => now,
            };
            self.observed = Some((version, since));
            // The lease of another candidate has not expired yet.
            if holder.is_some() && now - since < DURATION {
                return None;
            }
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time.clone_from(&time);
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count + 1));
        }
        spec.renew_time = time;
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        Some(lease)
    }

    /// Releases the lease, so that the next leader does not have to wait for the lease to expire.
    async fn release(&mut self) -> Result<(), kube::Error> {
        if !self.is_leading() {
            return Ok(());
        }
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        if let Some(spec) = lease.spec.as_mut()
            && spec.holder_identity.as_ref() == Some(&self.identity)
        {
            spec.holder_identity = None;
            self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeApi;

    fn candidate(server: &FakeApi, identity: &str) -> LeaderCandidate {
        let api = Api::namespaced(server.client(), "ml");
        LeaderCandidate::new(api, "batchfleet", identity.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_two_candidates_leads_and_the_other_takes_over_when_it_stops_renewing() {
        let server = FakeApi::default();
        let (mut one, mut two) = (candidate(&server, "one"), candidate(&server, "two"));
        one.step().await.unwrap();
        two.step().await.unwrap();
        assert_eq!((one.is_leading(), two.is_leading()), (true, false));
        for _ in 0..10 {
            tokio::time::advance(PERIOD).await;
            one.step().await.unwrap();
            two.step().await.unwrap();
            assert_eq!((one.is_leading(), two.is_leading()), (true, false));
        }
        while !two.is_leading() {
            tokio::time::advance(PERIOD).await;
            two.step().await.unwrap();
            assert!(!(one.is_leading() && two.is_leading()));
        }
        one.step().await.unwrap();
        assert_eq!((one.is_leading(), two.is_leading()), (false, true));
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_candidates_that_take_the_lease_at_once_one_is_refused() {
        let server = FakeApi::default();
        let (mut one, mut two) = (candidate(&server, "one"), candidate(&server, "two"));
        let (first, second) = tokio::join!(one.step(), two.step());
        assert!(first.is_ok() && second.is_ok());
        assert!(one.is_leading() != two.is_leading());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_stops_before_another_may_start() {
        let server = FakeApi::default();
        let mut one = candidate(&server, "one");
        one.step().await.unwrap();
        server.refuse("leases", 500);
        tokio::time::advance(RENEW_DEADLINE).await;
        assert!(one.step().await.is_err());
        assert!(!one.is_leading());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_releases_the_lease_at_shutdown() {
        let server = FakeApi::default();
        let (leading, leads) = watch::channel(false);
        let shutdown = CancellationToken::new();
        let one = tokio::spawn(candidate(&server, "one").run(leading, shutdown.clone()));
        leads.clone().wait_for(|leads| *leads).await.unwrap();
        shutdown.cancel();
        one.await.unwrap();
        assert!(!*leads.borrow());
        let mut two = candidate(&server, "two");
        two.step().await.unwrap();
        assert!(two.is_leading());
    }
}
