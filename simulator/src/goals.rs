//! What the decisions must reach: each goal with its bar, and what was reached in simulation.

pub mod batches;
pub mod capacity;
pub mod fleet;
mod optimum;

use std::{fmt, time::Duration};

use batchfleet_policy::ScalePolicy;

use crate::{curve::Curve, engine::Pilot, pilot::Ours};

/// The latency target of all goals.
pub const SLO: Duration = Duration::from_millis(100);
/// The most rows of a batch.
pub const MAX_BATCH: u32 = 512;

/// One goal.
#[derive(Clone, Debug)]
pub struct Goal {
    /// What is measured.
    pub name: String,
    /// What it must be.
    pub bar: Bar,
    /// What it was.
    pub reached: f64,
}

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

impl Goal {
    fn at_least(name: impl Into<String>, bar: f64, reached: f64) -> Self {
        Self { name: name.into(), bar: Bar::AtLeast(bar), reached }
    }

    fn at_most(name: impl Into<String>, bar: f64, reached: f64) -> Self {
        Self { name: name.into(), bar: Bar::AtMost(bar), reached }
    }

    /// Whether it is reached.
    pub fn is_reached(&self) -> bool {
        match self.bar {
            Bar::AtLeast(bar) => self.reached >= bar,
            Bar::AtMost(bar) => self.reached <= bar,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, bar) = match self.bar {
            Bar::AtLeast(bar) => (">=", bar),
            Bar::AtMost(bar) => ("<=", bar),
        };
        let mark = if self.is_reached() { "" } else { "  MISSED" };
        let reached = format!("{:.3}", self.reached);
        write!(f, "{:<72} {sign} {bar:>5} {reached:>9}{mark}", self.name)
    }
}

/// Who is judged.
pub trait Candidate {
    /// Decides what idle workers of this model do, and refuses whoever would be late if it may.
    fn batches(&self, curve: &Curve, may_refuse: bool) -> Option<Box<dyn Pilot>>;

    /// The same, and decides how many workers there are; it takes each for `error` times as fast as
    /// it is.
    fn fleet(&self, curve: &Curve, rule: ScalePolicy, error: f64) -> Option<Box<dyn Pilot>>;
}

/// The decisions of this program.
#[derive(Clone, Copy, Debug)]
pub struct InProcess;

impl InProcess {
    /// Our pilot for this model, nobody refused.
    pub fn pilot(curve: &Curve) -> Option<Ours> {
        Some(Ours::new(curve.cost(MAX_BATCH)?, MAX_BATCH, SLO))
    }
}

impl Candidate for InProcess {
    fn batches(&self, curve: &Curve, may_refuse: bool) -> Option<Box<dyn Pilot>> {
        let pilot = Self::pilot(curve)?;
        Some(Box::new(if may_refuse { pilot.refusing(SLO) } else { pilot }))
    }

    fn fleet(&self, curve: &Curve, rule: ScalePolicy, error: f64) -> Option<Box<dyn Pilot>> {
        Some(Box::new(Self::pilot(curve)?.refusing(SLO).scaling(rule, error)))
    }
}

/// Whether all goals are reached; `tell` hears of each as soon as it is known, and says whether to
/// go on.
pub fn all(mut tell: impl FnMut(&Goal) -> bool) -> bool {
    let groups: [fn() -> Vec<Goal>; 7] = [
        || capacity::cases().iter().map(|case| case.goal(&InProcess)).collect(),
        || batches::latency(&InProcess),
        || batches::on_time(&InProcess),
        batches::learning,
        batches::cost_of_a_decision,
        || fleet::cases().iter().flat_map(|case| case.goals(&InProcess)).collect(),
        || fleet::steadiness(&InProcess),
    ];
    let mut reached = true;
    for goal in groups.into_iter().flat_map(|group| group()) {
        reached &= goal.is_reached();
        if !tell(&goal) {
            break;
        }
    }
    reached
}
