//! Chooses N, the largest number of rows that a worker claims and runs as one batch.
//!
//! Notation: b rows of a batch, L(b) its duration ([`CostModel`]), W workers that share the queue,
//! λ the rate of arriving rows, SLO the latency target. The rules (model-based N, a batch size
//! matched to the load, early drop) were compared in the simulator with fixed sizes, batching
//! delays and AIMD (Crankshaw et al., "Clipper", NSDI 2017). `batchfleet simulate --goals` measures
//! the figures again.

mod choice;
mod mode;
mod search;

use std::time::Duration;

use self::search::{enough, largest_within, round_up};
pub use self::{
    choice::{BatchChoice, Bound, QueueLoad},
    mode::BatchMode,
};
use crate::CostModel;

/// η: the share of the latency target available for the two batches that a request experiences: the
/// batch that it waits for, and its own. The rest is reserved for jitter. Lower with several
/// workers, because their batches do not start together.
const HEADROOM_ALONE: f64 = 0.95;
const HEADROOM: f64 = 0.8;
/// The smallest size with this share of the best rate is large enough: more rows add latency but
/// hardly increase the rate.
const WORTH: f64 = 0.97;
/// Share of the best rate that N aims for while the latency target cannot be met.
const NEARLY_BEST: f64 = 0.96;
/// Both shares where requests of different lengths are padded: the more requests there are to choose
/// from, the less is lost to padding, which L(b) does not show.
const WORTH_PADDED: f64 = 0.99;
/// During a backlog, N rises to the smallest size with this share of the best rate, if a batch takes
/// less than this share of the time that requests have: they wait for longer than for a batch.
const BEST: f64 = 0.99;
const SHORT: f64 = 0.25;
/// There is a backlog if the rows in the system, beyond one for each worker, take this share of the
/// target at the N that keeps the target: the average request then takes more than half of the
/// target, and some take all of it. The backlog lasts until the rows take the smaller share; without
/// the distance, N would swing at a load near the limit.
const BACKLOG: f64 = 0.6;
const RECOVERED: f64 = 0.3;
/// A batch may take the time after which it counts as hung, divided by this margin, because batches
/// take longer on a busy machine.
const HANG_MARGIN: u32 = 3;
/// If one row takes longer than that, a batch may take this multiple of one row, as long as it is
/// within this share of the time after which it counts as hung.
const OVER_ONE_ROW: f64 = 1.2;
const NEARLY_HUNG: f64 = 0.8;
/// More than the error of a product of rows and units.
const ROUNDING: f64 = 1e-6;
/// A smaller fixed size without padding is preferred to a padded size only if its rate is higher by
/// this factor.
const FULLER: f64 = 1.05;

/// Settings from which N is computed.
#[derive(Clone, Copy, Debug)]
pub struct BatchPolicy {
    /// Whether N is automatic or set by the user.
    pub mode: BatchMode,
    /// N published for the whole fleet. Overrides `mode`.
    pub published: Option<u32>,
    /// The most rows that the model can run in one batch.
    pub max_batch: u32,
    /// What a usual request's row counts: 1, unless rows differ in length and are counted in
    /// [units](crate::LengthCost).
    pub row: u32,
    /// Whether requests of different lengths are padded to run together.
    pub pads: bool,
    /// SLO: the latency target for the 99th percentile of requests, from queue to reply.
    pub slo: Duration,
    /// The part of `slo` spent neither waiting nor computing: network and broker.
    pub overhead: Duration,
    /// A batch that takes this time counts as hung. N stays far below it.
    pub hung_after: Duration,
}

impl BatchPolicy {
    /// Returns a policy without a published N, overhead and limit on the time of a batch.
    pub const fn new(mode: BatchMode, max_batch: u32, slo: Duration) -> Self {
        let (overhead, hung_after) = (Duration::ZERO, Duration::MAX);
        Self { mode, published: None, max_batch, row: 1, pads: false, slo, overhead, hung_after }
    }

    /// Returns the same policy for a cost model, a load and a choice that count
    /// [units](crate::LengthCost), of which a usual row costs `row_units`, at least 1.
    #[must_use]
    pub fn in_units(self, row_units: f64) -> Self {
        let units = |rows: u32| round_up(f64::from(rows) * row_units - ROUNDING);
        let mode = match self.mode {
            BatchMode::Auto => BatchMode::Auto,
            BatchMode::Fixed(rows) => BatchMode::Fixed(units(rows)),
        };
        let (published, max_batch) = (self.published.map(units), units(self.max_batch));
        Self { mode, published, max_batch, row: units(1), ..self }
    }

    /// Chooses N for a model of this cost under this load.
    ///
    /// - N* = max b ≤ `max_batch` : L(b) ≤ η · (SLO − overhead) · W/(W+1). A request that arrives
    ///   just after a batch has started waits about L(N)/W until a worker is free, and then L(N)
    ///   for its own batch.
    /// - The upper end of the interval is the smallest b whose rate b / L(b) is within 3 % of the
    ///   best rate up to N*, or within 1 % if requests are padded. The upper end is 1 for a model that
    ///   does not gain from batching.
    /// - The lower end is `b_eq`, the size at which the fleet keeps up: the solution of b = λ/W ·
    ///   L(b).
    /// - With several workers, N = max((1.3 + 1.2/W) · `b_eq`, waiting/W), between 1 and the upper
    ///   end. A worker that claims more would hold requests while another worker is idle. The
    ///   factor covers the variation of Poisson arrivals and was fitted in the simulator. A single
    ///   worker uses the upper end.
    /// - If even one row misses the target, N aims for 96 % of the best rate of all sizes, or for 99 %
    ///   if requests are padded.
    /// - If the rows in the system, beyond one for each worker, take more than 60 % of the target at
    ///   the upper end, N also aims for this rate, with the requests' deadlines in place of the
    ///   target, until the rows take less than 30 %. Sizes of short batches may then rise to the best
    ///   rate, counted with the time that a batch takes outside of the engine. The number of rows in
    ///   the system is compared, because it does not depend on N if a fixed number of clients wait for their answers. Their
    ///   waiting times fall as soon as N rises, so that N would swing if it followed them. One row
    ///   for each worker is no backlog, however long it takes: a larger N would not answer it sooner.
    /// - L(N) stays below a third of `hung_after`.
    pub fn choose(&self, cost: &CostModel, load: &QueueLoad) -> BatchChoice {
        let most = self.most(cost);
        let n_star = self.n_star(cost, load.workers, self.slo).map(|n_star| n_star.min(most));
        let (upper, why) = match n_star {
            Some(n_star) => self.worthwhile(cost, n_star, most),
            None => {
                (enough(cost, self.share(NEARLY_BEST), most).max(self.row), Bound::SloInfeasible)
            }
        };
        let workers = f64::from(load.workers.max(1));
        let share = load.rate.map(|rate| rate.max(0.0) / workers);
        let b_eq = share.and_then(|share| cost.keeping_up(share, upper));
        let overloaded = share.is_some() && b_eq.is_none();
        let lower = b_eq.map_or(upper, round_up).min(upper);
        let mut choice = BatchChoice {
            n: upper,
            n_star,
            b_eq,
            overloaded,
            interval: (lower, upper),
            bound: why,
        };
        if let Some(by_hand) = self.by_hand() {
            choice.n = by_hand.0.clamp(1, self.max_batch.max(1));
            choice.bound = by_hand.1;
            return choice;
        }
        if load.workers > 1
            && let Some(b_eq) = b_eq
        {
            let matched = ((1.3 + 1.2 / workers) * b_eq).max(f64::from(load.waiting) / workers);
            let matched = cost.padded(round_up(matched)).max(self.row);
            if matched < upper {
                choice.n = matched;
                choice.bound = Bound::RateMatched;
            }
        }
        if let Some(catching_up) = self.catching_up(cost, load, upper)
            && catching_up > choice.n
        {
            choice.n = catching_up;
            choice.bound = Bound::Backlog;
        }
        choice
    }

    /// Returns the N that answers the rows in the system soonest, if they are a backlog at N = `upper`.
    fn catching_up(&self, cost: &CostModel, load: &QueueLoad, upper: u32) -> Option<u32> {
        let standing = load.standing / f64::from(load.workers.max(1));
        let within = if load.catching_up { RECOVERED } else { BACKLOG };
        let takes = (standing - f64::from(self.row)) / cost.rate(upper);
        if takes <= within * self.slo.as_secs_f64() {
            return None;
        }
        let in_time = self.n_star(cost, load.workers, load.allowance)?.min(self.most(cost));
        let rows = enough(cost, self.share(NEARLY_BEST), in_time);
        let best = self.best_in_backlog(cost, load, upper, in_time);
        let rows = best.map_or(rows, |best| best.max(rows));
        // A single worker claims what waits. No other worker may claim the rows of another, and a
        // size that is padded anyway may as well be full.
        let share = match load.workers {
            ..=1 if !cost.has_fixed_sizes() => rows,
            _ => cost.filled(round_up(standing)),
        };
        Some(rows.min(share))
    }

    /// Returns a size of `upper` to `most` rows with a better rate than `upper`, counted with the time
    /// outside of the engine, if its batches are short.
    fn best_in_backlog(
        &self,
        cost: &CostModel,
        load: &QueueLoad,
        upper: u32,
        most: u32,
    ) -> Option<u32> {
        let longest = SHORT * self.slo.min(load.allowance).as_secs_f64();
        let most = largest_within(cost, longest, most).filter(|&most| most > upper)?;
        let outside = load.outside.as_secs_f64();
        let rate = |rows: u32| f64::from(rows) / (cost.seconds(rows) + outside);
        let sizes = cost.sizes().map(|(size, _)| size).filter(|size| (upper..most).contains(size));
        let sizes: Vec<u32> = sizes.chain([most]).collect();
        let best = sizes.iter().map(|&size| rate(size)).fold(0.0, f64::max);
        // A smaller difference may be chance.
        let is_better = rate(upper) < WORTH * best;
        sizes.into_iter().find(|&size| is_better && rate(size) >= BEST * best)
    }

    /// The most rows of any batch that would not count as hung.
    pub fn safe(&self, cost: &CostModel) -> u32 {
        let almost = self.hung_after.mul_f64(NEARLY_HUNG).as_secs_f64();
        largest_within(cost, almost, u32::MAX - 1).unwrap_or(1)
    }

    /// The most rows of an automatic N: the model can run them, their time is known well enough,
    /// and they would not count as hung.
    fn most(&self, cost: &CostModel) -> u32 {
        let most = self.max_batch.min(cost.reach()).max(1);
        let longest = longest_batch(cost.latency(self.row), self.hung_after).as_secs_f64();
        largest_within(cost, longest, most).unwrap_or(1)
    }

    /// Returns how many of the `waiting` rows to run now: all of them, up to N.
    ///
    /// An engine with fixed sizes pads the rows to the next size. A smaller size that the rows fill
    /// is preferred if its rate is 5 % higher and the remaining rows can still be on time. `oldest`
    /// is the longest wait among the rows.
    pub fn take(&self, cost: &CostModel, n: u32, waiting: u32, oldest: Duration) -> u32 {
        let all = waiting.min(n);
        let padded = cost.padded(all);
        if padded == all {
            return all;
        }
        let patience = self.slo.mul_f64(HEADROOM);
        let fuller = |&full: &u32| {
            let both = cost.latency(full) + cost.latency(all - full);
            cost.rate(full) > FULLER * cost.rate(all) && oldest + both < patience
        };
        let sizes = cost.sizes().map(|(size, _)| size).take_while(|&size| size < all);
        sizes.filter(fuller).max_by(|&a, &b| cost.rate(a).total_cmp(&cost.rate(b))).unwrap_or(all)
    }

    /// μ(W): returns the rows per second that one of `workers` workers can do within the latency
    /// target, at the best size up to N*, or at the N that is set by the user or published.
    pub fn capacity(&self, cost: &CostModel, workers: u32) -> f64 {
        let n_star = self.n_star(cost, workers, self.slo);
        match n_star.map(|n_star| n_star.min(self.most(cost))) {
            Some(n_star) if self.by_hand().is_none() => cost.best_rate(n_star),
            _ => cost.rate(self.choose(cost, &QueueLoad::unknown(workers)).n),
        }
    }

    /// Returns the shortest latency target at which N* has nearly the best rate of all sizes; `None`
    /// if N is set by the user or published.
    pub(crate) fn target_for_best(&self, cost: &CostModel, workers: u32) -> Option<Duration> {
        if self.by_hand().is_some() {
            return None;
        }
        let rows = enough(cost, NEARLY_BEST, self.most(cost));
        Duration::try_from_secs_f64(cost.seconds(rows) / usable_share(workers))
            .ok()?
            .checked_add(self.overhead)
    }

    fn by_hand(&self) -> Option<(u32, Bound)> {
        match (self.published, self.mode) {
            (Some(rows), _) => Some((rows, Bound::Published)),
            (None, BatchMode::Fixed(rows)) => Some((rows, Bound::Fixed)),
            (None, BatchMode::Auto) => None,
        }
    }

    /// Returns N* for a latency target of `slo`. If no size fits with headroom, N* is one row,
    /// provided that one row fits without headroom.
    fn n_star(&self, cost: &CostModel, workers: u32, slo: Duration) -> Option<u32> {
        let usable = slo.saturating_sub(self.overhead).as_secs_f64();
        largest_within(cost, usable * usable_share(workers), self.max_batch.max(1))
            .filter(|&rows| rows >= self.row)
            .or_else(|| {
                (cost.seconds(self.row) <= usable * batch_share(workers)).then_some(self.row)
            })
    }

    /// The share of the best rate that is enough: `usual`, or more where larger batches also save
    /// padding.
    const fn share(&self, usual: f64) -> f64 {
        if self.pads { WORTH_PADDED } else { usual }
    }

    /// Returns the smallest size with nearly the best rate of sizes up to N*, and the limit that
    /// determined this size.
    fn worthwhile(&self, cost: &CostModel, n_star: u32, most: u32) -> (u32, Bound) {
        let worth = self.share(WORTH);
        let rows = enough(cost, worth, n_star).max(self.row);
        // If twice the limit gives the same size, N* was not the limit. Nothing is known of the gain
        // of sizes beyond the table.
        let limited = enough(cost, worth, n_star.saturating_mul(2)).max(self.row) != rows;
        let bound = if self.max_batch <= self.row {
            Bound::MaxBatch
        } else if !limited && rows < cost.largest() {
            Bound::NoGain
        } else if n_star < most {
            Bound::Slo
        } else if most < self.max_batch.min(cost.reach()) {
            Bound::MaxBatchTime
        } else if most < self.max_batch {
            Bound::Untried
        } else {
            Bound::MaxBatch
        };
        (rows, bound)
    }
}

/// The share of the latency target that one batch may take, because a request waits for a W-th of
/// another before: W/(W+1).
fn batch_share(workers: u32) -> f64 {
    let workers = f64::from(workers.max(1));
    workers / (workers + 1.0)
}

/// The share of the latency target that one batch may take, with headroom.
fn usable_share(workers: u32) -> f64 {
    batch_share(workers) * if workers > 1 { HEADROOM } else { HEADROOM_ALONE }
}

/// Returns the longest time of a batch of automatic size, if batches that take `hung_after` count as
/// hung, and `one` is the time of one row.
pub(crate) fn longest_batch(one: Duration, hung_after: Duration) -> Duration {
    let over_one_row = one.mul_f64(OVER_ONE_ROW).min(hung_after.mul_f64(NEARLY_HUNG));
    over_one_row.max(hung_after / HANG_MARGIN)
}

#[cfg(test)]
mod tests;
