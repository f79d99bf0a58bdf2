//! Who of several controllers may write: whoever holds a Lease, as client-go's elections do it.
//!
//! A holder that has not renewed for the lease's duration has lost it. How long that is, everybody
//! counts by its own clock, from when it saw the lease change for the last time: clocks of machines
//! differ. A holder gives up before others may take over.

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

/// How long others wait for a holder.
const DURATION: Duration = Duration::from_secs(15);
/// How long a holder believes that it is one, without renewing.
const BELIEF: Duration = Duration::from_secs(10);
/// How often it is renewed, or looked at.
const EVERY: Duration = Duration::from_secs(2);

/// One candidate.
pub(crate) struct Candidate {
    api: Api<Lease>,
    name: String,
    /// Who this is; no other process has the same.
    me: String,
    /// The version of the lease that was seen last, and since when.
    seen: Option<(String, Instant)>,
    /// When it was renewed for the last time.
    renewed: Option<Instant>,
}

impl Candidate {
    pub(crate) fn new(api: Api<Lease>, name: &str, me: String) -> Self {
        Self { api, name: name.to_owned(), me, seen: None, renewed: None }
    }

    /// Task: stands for election until shutdown, and tells whether it leads.
    pub(crate) async fn stand(mut self, leads: watch::Sender<bool>, shutdown: CancellationToken) {
        let mut ticks = interval(EVERY);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            match timeout(EVERY, self.step()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "the lease cannot be had"),
                Err(_) => warn!("the API server does not answer about the lease"),
            }
            let leading = self.is_leading();
            if leads.send_replace(leading) != leading {
                info!(leading, me = self.me, "who leads has changed");
            }
        }
        leads.send_replace(false);
        if let Err(error) = timeout(EVERY, self.release()).await {
            debug!(%error, "the lease was not given back; it runs out");
        }
    }

    /// Whether nobody else can lead now.
    pub(crate) fn is_leading(&self) -> bool {
        self.renewed.is_some_and(|at| at.elapsed() < BELIEF)
    }

    /// Renews or takes the lease, if it can be had.
    pub(crate) async fn step(&mut self) -> Result<(), kube::Error> {
        // From before the question: the answer may be slow.
        let asked = Instant::now();
        let standing = self.api.get_opt(&self.name).await?;
        let Some(next) = self.next(standing.as_ref(), asked) else {
            self.renewed = None;
            return Ok(());
        };
        let written = match standing {
            None => self.api.create(&PostParams::default(), &next).await,
            // With the version that was read: of two who take it, one is refused.
            Some(_) => self.api.replace(&self.name, &PostParams::default(), &next).await,
        };
        match written {
            Ok(_) => self.renewed = Some(asked),
            Err(kube::Error::Api(refusal)) if refusal.code == 409 => self.renewed = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The lease to write, if it is ours to write.
    fn next(&mut self, standing: Option<&Lease>, now: Instant) -> Option<Lease> {
        let time = Some(MicroTime(Timestamp::now()));
        let mut lease = standing.cloned().unwrap_or_default();
        lease.metadata.name = Some(self.name.clone());
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty());
        if holder.as_deref() != Some(&self.me) {
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let since = match &self.seen {
                Some((seen, since)) if *seen == version => *since,
                _ => now,
            };
            self.seen = Some((version, since));
            if holder.is_some() && now - since < DURATION {
                return None;
            }
            spec.holder_identity = Some(self.me.clone());
            spec.acquire_time.clone_from(&time);
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count + 1));
        }
        spec.renew_time = time;
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        Some(lease)
    }

    /// Lets the next one have it at once.
    async fn release(&mut self) -> Result<(), kube::Error> {
        if !self.is_leading() {
            return Ok(());
        }
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        if let Some(spec) = lease.spec.as_mut()
            && spec.holder_identity.as_ref() == Some(&self.me)
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

    fn candidate(server: &FakeApi, me: &str) -> Candidate {
        Candidate::new(Api::namespaced(server.client(), "ml"), "batchfleet", me.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_only_one_leads_and_the_other_takes_over_when_it_falls_silent() {
        let server = FakeApi::default();
        let (mut one, mut two) = (candidate(&server, "one"), candidate(&server, "two"));
        one.step().await.unwrap();
        two.step().await.unwrap();
        assert_eq!((one.is_leading(), two.is_leading()), (true, false));
        for _ in 0..10 {
            tokio::time::advance(EVERY).await;
            one.step().await.unwrap();
            two.step().await.unwrap();
            assert_eq!((one.is_leading(), two.is_leading()), (true, false));
        }
        while !two.is_leading() {
            tokio::time::advance(EVERY).await;
            two.step().await.unwrap();
            assert!(!(one.is_leading() && two.is_leading()));
        }
        one.step().await.unwrap();
        assert_eq!((one.is_leading(), two.is_leading()), (false, true));
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_who_take_it_at_once_one_is_refused() {
        let server = FakeApi::default();
        let (mut one, mut two) = (candidate(&server, "one"), candidate(&server, "two"));
        let (first, second) = tokio::join!(one.step(), two.step());
        assert!(first.is_ok() && second.is_ok());
        assert!(one.is_leading() != two.is_leading());
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_cannot_renew_stops_before_another_may_begin() {
        let server = FakeApi::default();
        let mut one = candidate(&server, "one");
        one.step().await.unwrap();
        server.refuse("leases", 500);
        tokio::time::advance(BELIEF).await;
        assert!(one.step().await.is_err());
        assert!(!one.is_leading());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_to_stop_gives_it_back() {
        let server = FakeApi::default();
        let (told, leads) = watch::channel(false);
        let shutdown = CancellationToken::new();
        let one = tokio::spawn(candidate(&server, "one").stand(told, shutdown.clone()));
        leads.clone().wait_for(|leads| *leads).await.unwrap();
        shutdown.cancel();
        one.await.unwrap();
        assert!(!*leads.borrow());
        let mut two = candidate(&server, "two");
        two.step().await.unwrap();
        assert!(two.is_leading());
    }
}
