//! Why a fleet is as large as it is, in a sentence.

use batchfleet_policy::ScaleBound;

use super::{Decision, Reason, TICK};
use crate::crd::ModelFleetSpec;

/// The sentence; `each` is what a worker can do, `wanted` how many the load wants.
pub(super) fn size(
    spec: &ModelFleetSpec,
    decision: &Decision,
    each: Option<f64>,
    wanted: u32,
) -> String {
    let scaling = &spec.scaling;
    let floor = decision.plan.floor;
    let load = load(spec, decision.offered, each);
    let reason = match decision.reason {
        Reason::Pinned => "spec.replicas says so".to_owned(),
        Reason::NoSpeed if floor == 0 => "nobody has asked for it yet".to_owned(),
        Reason::NoSpeed => "no worker has said yet how fast it is".to_owned(),
        Reason::Scaled(ScaleBound::Load | ScaleBound::Min) if floor == 0 => {
            "nobody asks for it".to_owned()
        }
        Reason::Scaled(ScaleBound::Load) => load,
        Reason::Scaled(ScaleBound::Backlog) => format!("{load}, and requests wait"),
        Reason::Scaled(ScaleBound::Hold) => format!(
            "{load}, which wants {wanted}; more were needed within the last {} s",
            scaling.hold_seconds
        ),
        Reason::Scaled(ScaleBound::Min) => format!("{load}, which wants fewer than may be"),
        Reason::Scaled(ScaleBound::Max) => {
            format!("{load}, which wants more than scaling.max: requests are late or refused")
        }
        Reason::Scaled(ScaleBound::Unknown) => "the load is not known yet".to_owned(),
        Reason::Scaled(ScaleBound::Stale) => format!(
            "no gateway has said for {} s what is asked, so none goes",
            (TICK * 3).as_secs()
        ),
    };
    let workers = if floor == 1 { "1 worker".to_owned() } else { format!("{floor} workers") };
    format!("{workers}: {reason}")
}

fn load(spec: &ModelFleetSpec, offered: Option<f64>, each: Option<f64>) -> String {
    let (offered, each) = (rounded(offered.unwrap_or(0.0)), rounded(each.unwrap_or(0.0)));
    format!(
        "{offered} rows a second are asked for, a worker can do {each} within {} ms, and is to be \
         busy for {} % of that",
        spec.slo.p99_ms, spec.scaling.utilization_percent
    )
}

/// To two digits: what is told changes only when something has changed.
pub(crate) fn rounded(number: f64) -> f64 {
    if number <= 0.0 || !number.is_finite() {
        return 0.0;
    }
    let unit = 10_f64.powf(number.log10().floor() - 1.0);
    // Back through text: 0.1 times a whole number is no short number.
    let digits = (number / unit).round() * unit;
    format!("{digits:.3}").parse().unwrap_or(digits)
}
