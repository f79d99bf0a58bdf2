//! N: the most rows a worker claims and runs together, and why so many.

use std::{fmt, str::FromStr, time::Duration};

use crate::CostModel;

/// Share of the latency target that one worker may spend on the batch a request waits for and the
/// batch it travels in; the rest is for jitter. Several workers get less, because their batches
/// do not begin together.
const HEADROOM_ALONE: f64 = 0.95;
const HEADROOM: f64 = 0.8;
/// More rows must bring more than this share of the best rate, or they only bring latency.
const WORTH: f64 = 0.97;
/// A target that no size can meet is answered with throughput: this share of the best.
const NEARLY_BEST: f64 = 0.9;
/// Running fewer rows than wait, in a smaller fixed size that they fill, must be so much faster.
const FULLER: f64 = 1.05;

/// How N is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchMode {
    /// From measured batch times and the latency target.
    Auto,
    /// By hand.
    Fixed(u32),
}

impl FromStr for BatchMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => match text.parse() {
                Ok(rows) if rows > 0 => Ok(Self::Fixed(rows)),
                _ => Err("expected auto or a number of rows from 1".to_owned()),
            },
        }
    }
}

impl fmt::Display for BatchMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(rows) => write!(f, "{rows}"),
        }
    }
}

/// What bounds N.
#[derive(Clone, Copy, Debug)]
pub struct BatchPolicy {
    /// Automatic or by hand.
    pub mode: BatchMode,
    /// What was published for the whole fleet; it goes before `mode`.
    pub published: Option<u32>,
    /// The most rows the model may run at once.
    pub max_batch: u32,
    /// The latency target: the 99th percentile of a request, queue and batch together.
    pub slo: Duration,
    /// What of it goes to neither waiting nor computing: network and broker.
    pub overhead: Duration,
}

/// What is known of the load when a worker is about to claim.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Workers that share the queue.
    pub workers: u32,
    /// Rows per second that arrive for all of them; `None` while unknown.
    pub rate: Option<f64>,
    /// Rows that wait; 0 if unknown.
    pub waiting: u32,
    /// How long the oldest has waited; 0 if unknown.
    pub oldest: Duration,
}

impl Demand {
    /// All that `workers` know who know nothing of the queue.
    pub const fn unknown(workers: u32) -> Self {
        Self { workers, rate: None, waiting: 0, oldest: Duration::ZERO }
    }
}

/// N, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// N: the most rows to claim and run together.
    pub n: u32,
    /// N*: the most rows that keep the latency target; `None` if not even one row does.
    pub n_star: Option<u32>,
    /// The rows a batch must have for the fleet to keep up with the load, below one if it idles in
    /// between; `None` while the load is unknown.
    pub b_eq: Option<f64>,
    /// Whether the load is more than the fleet can do with any size that keeps the target. Then
    /// requests must be refused, or wait longer than they should.
    pub overloaded: bool,
    /// What N was chosen from: enough rows to keep up, but no more than keep the target and bring
    /// more than latency.
    pub interval: (u32, u32),
    /// What bound it.
    pub bound: Bound,
}

/// What decided about N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The latency target: larger batches would take too long.
    Slo,
    /// The most rows the model may run.
    MaxBatch,
    /// Larger batches would keep the target, but be no faster.
    NoGain,
    /// The load: larger batches would keep requests waiting behind a busy worker.
    RateMatched,
    /// Requests wait for longer than the target: throughput goes first.
    Backlog,
    /// Not even one row meets the target: throughput goes first.
    SloInfeasible,
    /// Set by hand.
    Fixed,
    /// Published for the whole fleet.
    Published,
}

impl Bound {
    /// Every bound.
    pub const ALL: [Self; 8] = [
        Self::Slo,
        Self::MaxBatch,
        Self::NoGain,
        Self::RateMatched,
        Self::Backlog,
        Self::SloInfeasible,
        Self::Fixed,
        Self::Published,
    ];

    /// The bounded label of metrics, and what `explain` says.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Slo => "slo",
            Self::MaxBatch => "max_batch",
            Self::NoGain => "no_gain",
            Self::RateMatched => "rate_matched",
            Self::Backlog => "backlog",
            Self::SloInfeasible => "slo_infeasible",
            Self::Fixed => "fixed",
            Self::Published => "published",
        }
    }
}

impl BatchPolicy {
    /// Nothing published, and no overhead.
    pub const fn new(mode: BatchMode, max_batch: u32, slo: Duration) -> Self {
        Self { mode, published: None, max_batch, slo, overhead: Duration::ZERO }
    }

    /// N for a model of this cost under this load.
    ///
    /// - N* = max b ≤ `max_batch` : L(b) ≤ η · (SLO − overhead) · W/(W+1). A request that arrives
    ///   just after a batch left waits for it (about L(N)/W until some worker is free) and then for
    ///   its own, L(N).
    /// - The upper end of the interval is the smallest b whose rate b / L(b) is within 3 % of the
    ///   best up to N*: rows that bring less bring only latency. It is 1 where batching gains nothing.
    /// - The lower end is `b_eq`, the rows that the fleet must run together to keep up: b = λ/W · L(b).
    /// - With several workers, N = max((1.3 + 1.2/W) · `b_eq`, waiting/W) within 1 and the upper
    ///   end: whoever claims more keeps requests behind a busy worker while another is free. One
    ///   worker takes the upper end.
    /// - Where even one row misses the target, or requests already wait for longer than it, N
    ///   reaches for 90 % of the best rate of all sizes.
    pub fn choose(&self, cost: &CostModel, demand: &Demand) -> Choice {
        let max_batch = self.max_batch.max(1);
        let n_star = self.n_star(cost, demand.workers);
        let (upper, why) = match n_star {
            Some(n_star) => worthwhile(cost, n_star, max_batch),
            None => (enough(cost, NEARLY_BEST, max_batch), Bound::SloInfeasible),
        };
        let workers = f64::from(demand.workers.max(1));
        let share = demand.rate.map(|rate| rate.max(0.0) / workers);
        let b_eq = share.and_then(|share| cost.keeping_up(share, upper));
        let overloaded = share.is_some() && b_eq.is_none();
        let lower = b_eq.map_or(upper, round_up).min(upper);
        let mut choice =
            Choice { n: upper, n_star, b_eq, overloaded, interval: (lower, upper), bound: why };
        if let Some(by_hand) = self.by_hand() {
            choice.n = by_hand.0.clamp(1, max_batch);
            choice.bound = by_hand.1;
            return choice;
        }
        if demand.workers > 1
            && let Some(b_eq) = b_eq
        {
            let matched = ((1.3 + 1.2 / workers) * b_eq).max(f64::from(demand.waiting) / workers);
            let matched = cost.padded(round_up(matched));
            if matched < upper {
                choice.n = matched;
                choice.bound = Bound::RateMatched;
            }
        }
        if n_star.is_some() && demand.oldest + cost.latency(choice.n) > self.slo {
            let waiting = demand.waiting.div_ceil(demand.workers.max(1));
            let catching_up = enough(cost, NEARLY_BEST, max_batch).min(waiting);
            if catching_up > choice.n {
                choice.n = catching_up;
                choice.bound = Bound::Backlog;
            }
        }
        choice
    }

    /// How many of `waiting` rows to run now, with this N: all of them, at most N.
    ///
    /// Of an engine with fixed sizes, a smaller size that they fill is better than a larger one
    /// padded, if it is 5 % faster per row and whoever is left over is still in time. `oldest` is
    /// the longest wait among them.
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

    /// μ(W): rows per second that one of `workers` workers can do within the latency target, in
    /// batches of the best size that keeps it, or of the size set by hand.
    pub fn capacity(&self, cost: &CostModel, workers: u32) -> f64 {
        match self.n_star(cost, workers) {
            Some(n_star) if self.by_hand().is_none() => cost.best_rate(n_star),
            _ => cost.rate(self.choose(cost, &Demand::unknown(workers)).n),
        }
    }

    fn by_hand(&self) -> Option<(u32, Bound)> {
        match (self.published, self.mode) {
            (Some(rows), _) => Some((rows, Bound::Published)),
            (None, BatchMode::Fixed(rows)) => Some((rows, Bound::Fixed)),
            (None, BatchMode::Auto) => None,
        }
    }

    /// N*. One row, if it keeps the target without any headroom at least.
    fn n_star(&self, cost: &CostModel, workers: u32) -> Option<u32> {
        let share = {
            let workers = f64::from(workers.max(1));
            workers / (workers + 1.0)
        };
        let headroom = if workers > 1 { HEADROOM } else { HEADROOM_ALONE };
        let usable = self.slo.saturating_sub(self.overhead).as_secs_f64() * share;
        largest_within(cost, usable * headroom, self.max_batch.max(1))
            .or_else(|| (cost.seconds(1) <= usable).then_some(1))
    }
}

/// The largest size whose batch takes at most `seconds`; L is monotone, so a binary search finds
/// it.
fn largest_within(cost: &CostModel, seconds: f64, max_batch: u32) -> Option<u32> {
    let (mut fits, mut too_large) = (0, max_batch.saturating_add(1));
    while too_large - fits > 1 {
        let middle = fits + (too_large - fits) / 2;
        if cost.seconds(middle) <= seconds {
            fits = middle;
        } else {
            too_large = middle;
        }
    }
    (fits > 0).then_some(fits)
}

/// The smallest size up to N* whose rate is worth having, and what keeps it from being larger.
fn worthwhile(cost: &CostModel, n_star: u32, max_batch: u32) -> (u32, Bound) {
    let rows = enough(cost, WORTH, n_star);
    // Were the limit higher, more rows would be worthwhile.
    let bound = if enough(cost, WORTH, n_star.saturating_mul(2)) == rows {
        Bound::NoGain
    } else if n_star == max_batch {
        Bound::MaxBatch
    } else {
        Bound::Slo
    };
    (rows, bound)
}

/// The smallest size that has this share of the best rate among sizes up to `most`.
fn enough(cost: &CostModel, share: f64, most: u32) -> u32 {
    let rows = cost.keeping_up(share * cost.best_rate(most), most).map_or(most, round_up);
    cost.padded(rows).min(most)
}

/// The next whole number of rows, at least one.
fn round_up(rows: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let whole = rows.ceil() as u32;
    whole.max(1)
}

#[cfg(test)]
mod tests;
