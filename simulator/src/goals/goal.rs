//! A goal, and the interface of the pilots that are measured against goals.

use std::{fmt, time::Duration};

use batchfleet_policy::ScalePolicy;

use crate::{curve::Curve, engine::Pilot, pilot::PolicyPilot};

/// The latency target of all goals.
pub const SLO: Duration = Duration::from_millis(100);
/// The most rows of a batch.
pub const MAX_BATCH: u32 = 512;

/// A figure and its bound.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The measured figure.
    pub name: String,
    /// The bound.
    pub bar: Bar,
    /// The measured value.
    pub reached: f64,
}

/// The bound of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// At least this value.
    AtLeast(f64),
    /// At most this value.
    AtMost(f64),
}

impl Goal {
    pub(super) fn at_least(name: impl Into<String>, bar: f64, reached: f64) -> Self {
        Self { name: name.into(), bar: Bar::AtLeast(bar), reached }
    }

    pub(super) fn at_most(name: impl Into<String>, bar: f64, reached: f64) -> Self {
        Self { name: name.into(), bar: Bar::AtMost(bar), reached }
    }

    /// Returns whether the measured value is within the bound.
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

/// Creates the pilots to measure.
pub trait Candidate {
    /// Returns a pilot that decides about batches of this model. With `may_refuse` the pilot
    /// refuses requests that would be late.
    fn batches(&self, curve: &Curve, may_refuse: bool) -> Option<Box<dyn Pilot>>;

    /// Returns a pilot that also decides about the number of workers. The capacity of workers is
    /// multiplied by `error` before the pilot receives it.
    fn fleet(&self, curve: &Curve, rule: ScalePolicy, error: f64) -> Option<Box<dyn Pilot>>;
}

/// Creates pilots that call `batchfleet_policy` in this process.
#[derive(Clone, Copy, Debug)]
pub struct InProcess;

impl InProcess {
    /// Returns a pilot for this model that refuses no requests.
    pub fn pilot(curve: &Curve) -> Option<PolicyPilot> {
        Some(PolicyPilot::new(curve.cost(MAX_BATCH)?, MAX_BATCH, SLO))
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
