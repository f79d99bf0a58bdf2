//! Gathers jobs for a batch before it is formed: which jobs to claim while some are held, and how long to
//! wait for them.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::BatchSource;
use crate::{limit::BatchLimit, pipeline::claim::LastClaim, settle::Settler};

/// Batches that are held while many requests of different lengths wait.
const WINDOW: f64 = 4.0;
/// Maximum number of large jobs to hold while other jobs are claimed, by an only worker and by one of
/// several, which could run those that wait here.
const MOST_LARGE_ALONE: usize = 4;
const MOST_LARGE: usize = 2;

impl BatchSource {
    /// Whether to claim more jobs while some are held.
    ///
    /// Large jobs run in parts and do not keep other jobs from their turn, unless many are held:
    /// other workers could run those. Nothing is claimed either if held jobs differ in shape and
    /// the oldest must run next: claimed jobs would most likely wait for its batch, while another
    /// worker is free.
    pub(super) fn needs_more(&self, limit: BatchLimit) -> bool {
        f64::from(self.held.whole_units(limit)) < self.window(limit)
            && !self.holds_many_large(limit)
            && !(self.held.is_mixed() && self.held.oldest_is_next(limit, self.pace.urgency(limit)))
    }

    pub(super) fn holds_many_large(&self, limit: BatchLimit) -> bool {
        let most = if self.pace.is_alone() { MOST_LARGE_ALONE } else { MOST_LARGE };
        self.held.large(limit) >= most
    }

    /// Waits for more jobs as [`lingers_until`](Self::lingers_until) says. Does not wait if the held
    /// jobs fill a batch, or are of several batches: then one of them can run. Returns whether it waited.
    pub(super) async fn linger(
        &mut self,
        limit: BatchLimit,
        settler: &mut Settler,
    ) -> Option<bool> {
        let Some((until, enough)) = self.lingers_until() else { return Some(false) };
        let mut lingered = false;
        while Instant::now() < until
            && f64::from(self.held.units()) < enough
            && self.held.has_room(limit)
        {
            lingered = true;
            let full = self.pace.full(limit);
            self.intake.ask(full - f64::from(self.held.units()), full);
            let claimed = tokio::select! {
                biased;
                claimed = self.intake.claimed() => claimed?,
                () = sleep_until(until) => break,
                () = self.drain.begun() => return None,
            };
            self.hold(claimed, settler).await;
        }
        Some(lingered)
    }

    /// Until when to wait for more jobs, and how many units suffice: until the oldest held job is as
    /// old as the linger setting, or without one as long as it takes until the requests are there that
    /// follow the last answers.
    fn lingers_until(&self) -> Option<(Instant, f64)> {
        if self.plan.linger.is_zero() {
            return self.pace.follow_ups(&self.held);
        }
        let oldest = self.held.iter().map(|job| job.delivery.age()).max();
        let left = oldest.map_or(Duration::ZERO, |age| self.plan.linger.saturating_sub(age));
        Some((Instant::now() + left, f64::INFINITY))
    }

    /// How much to hold for the next batch. If requests of different lengths are padded, several
    /// batches are claimed, so that requests of about the same length run together: as many as there
    /// may be if more wait in the queue than a batch takes, otherwise this worker's share of what is
    /// in the system. A held job of many rows fills batches with rows of its own length; more of its
    /// kind are left to other workers.
    pub(super) fn window(&self, limit: BatchLimit) -> f64 {
        let full = self.pace.full(limit);
        let most = full * WINDOW;
        if self.plan.padding.is_none() || self.held.large(limit) > 0 {
            full
        } else if self.last_claim == LastClaim::Full {
            most
        } else {
            self.pace.share().clamp(full, most)
        }
    }

    /// If the held jobs do not fill a batch, claims the jobs that wait in the queue now, up to a full
    /// batch. Does not wait for a claim in flight, which would have found waiting jobs.
    pub(super) async fn top_up(&mut self, limit: BatchLimit, settler: &mut Settler) -> Option<()> {
        if f64::from(self.held.units()) < limit.units && !self.intake.is_claiming() {
            self.ask_to_top_up(limit);
            return self.await_claim(self.pace.claim_patience(), settler).await;
        }
        if let Some(claimed) = self.intake.claimed_already() {
            self.hold(claimed, settler).await;
        }
        Some(())
    }

    /// Starts to claim up to a full batch. Held jobs do not reduce the claim if some of them could not
    /// join the last batch.
    pub(super) fn ask_to_top_up(&mut self, limit: BatchLimit) {
        let held = if self.held.is_mixed() { 0 } else { self.held.whole_units(limit) };
        self.intake.ask(self.window(limit) - f64::from(held), limit.units);
    }

    /// Waits for the claim in flight, or until a job of a dead worker may be next. `None` once the
    /// drain begins.
    pub(super) async fn await_first_claim(&mut self, settler: &mut Settler) -> Option<()> {
        let patience = self.pace.claim_patience();
        let Self { intake, quarantine, drain, .. } = self;
        let quarantined = async {
            // Jobs that wait are claimed first. If the claim ended during a quarantined run that kills
            // the worker, the claimed jobs would be quarantined too.
            sleep(patience).await;
            quarantine.found().await;
        };
        let claimed = tokio::select! {
            biased;
            claimed = intake.claimed() => claimed?,
            () = quarantined => return Some(()),
            () = drain.begun() => return None,
        };
        self.hold(claimed, settler).await;
        Some(())
    }

    /// Waits up to `patience` for the claim in flight. `None` once the drain begins.
    async fn await_claim(&mut self, patience: Duration, settler: &mut Settler) -> Option<()> {
        let claimed = tokio::select! {
            biased;
            claimed = self.intake.claimed() => claimed?,
            () = sleep(patience) => return Some(()),
            () = self.drain.begun() => return None,
        };
        self.hold(claimed, settler).await;
        Some(())
    }
}
