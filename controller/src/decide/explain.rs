//! Explains the size of a fleet in a sentence.

use batchfleet_policy::ScaleBound;

use super::decision::{Decision, FleetInput, Reason, SILENT_GATEWAYS, SURPLUS};
use crate::crd::ModelFleetSpec;

/// Explains the size of a fleet. `each` is the capacity of one worker in rows per second, `wanted`
/// the number of workers that the load alone needs.
pub(super) fn size(
    spec: &ModelFleetSpec,
    input: &FleetInput,
    decision: &Decision,
    each: Option<f64>,
    wanted: u32,
) -> String {
    let scaling = &spec.scaling;
    let floor = decision.size.floor;
    let load = load(spec, decision, each);
    let reason = match decision.reason {
        Reason::Pinned => "set by spec.replicas".to_owned(),
        Reason::Surplus => SURPLUS.to_owned(),
        Reason::NoSpeed if floor == 0 => "no request has come yet".to_owned(),
        Reason::NoSpeed => "no worker has announced its batch times yet".to_owned(),
        Reason::Scaled(ScaleBound::Load | ScaleBound::Min) if floor == 0 => {
            "no requests".to_owned()
        }
        Reason::Scaled(ScaleBound::Load) => load,
        Reason::Scaled(ScaleBound::Backlog) => format!("{load}, and requests are waiting"),
        Reason::Scaled(ScaleBound::Hold) => format!(
            "{load}, which needs {wanted}; more were needed within the last {} s",
            scaling.hold_seconds
        ),
        Reason::Scaled(ScaleBound::Min) => format!("{load}, which needs fewer than scaling.min"),
        Reason::Scaled(ScaleBound::Max) => {
            format!("{load}, which needs more than scaling.max: requests are late or refused")
        }
        Reason::Scaled(ScaleBound::Unknown) => "the load is not known yet".to_owned(),
        Reason::Scaled(ScaleBound::Stale) if input.redis_error.is_some() => {
            "Redis cannot be read, so the load is unknown and no worker is removed".to_owned()
        }
        Reason::Scaled(ScaleBound::Stale) => format!(
            "no gateway has reported traffic for {} s, so no worker is removed",
            SILENT_GATEWAYS.as_secs()
        ),
    };
    let workers = if floor == 1 { "1 worker".to_owned() } else { format!("{floor} workers") };
    format!("{workers}: {reason}")
}

fn load(spec: &ModelFleetSpec, decision: &Decision, each: Option<f64>) -> String {
    let (offered, each) = (rounded(decision.offered.unwrap_or(0.0)), rounded(each.unwrap_or(0.0)));
    let late = if decision.is_infeasible { ", although not one of them" } else { "" };
    format!(
        "{offered} rows per second are offered; a worker can serve {each}{late} within {} ms and is to \
         run at {} % of that",
        spec.slo.p99_ms, spec.scaling.utilization_percent
    )
}

/// Rounds to two significant digits, so that small fluctuations do not change the status.
pub(crate) fn rounded(number: f64) -> f64 {
    if number <= 0.0 || !number.is_finite() {
        return 0.0;
    }
    let unit = 10_f64.powf(number.log10().floor() - 1.0);
    // Formatted and parsed again, because the product may otherwise print with many digits.
    let digits = (number / unit).round() * unit;
    format!("{digits:.3}").parse().unwrap_or(digits)
}
