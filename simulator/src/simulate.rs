//! `batchfleet simulate`: how many workers a load needs, and the resulting latency.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use batchfleet_policy::{BatchMode, ScalePolicy, fewest};

use crate::{
    drawing,
    engine::Scenario,
    error::SimulateError,
    goals,
    outcome::SimulationOutcome,
    pilot::PolicyPilot,
    plan,
    report::{FEW, FleetSizing, ReportRow, SimulationReport},
    settings::SimulateSettings,
};

/// Simulates a load and prints the report.
///
/// # Errors
///
/// If settings or files are invalid; [`SimulateError::Goals`] if `--goals` is set and a goal is
/// missed.
pub fn simulate(settings: &SimulateSettings) -> Result<(), SimulateError> {
    if settings.goals {
        return check_goals();
    }
    let curve = settings.curve()?;
    let (load, length) = settings.load()?;
    let load = match settings.clients {
        Some(clients) => Scenario::closed(curve, clients, length, 1),
        None => Scenario::new(curve, load.arrivals(length, settings.seed), length, 1),
    };
    let lengths = match &settings.lengths {
        Some(lengths) => lengths.draw(LENGTHS, settings.seed)?.into(),
        None => [1].into(),
    };
    let scenario = Scenario { lengths, slo: settings.slo, cold_start: settings.cold_start, ..load };
    let pilot = pilot(settings, &scenario).ok_or(SimulateError::NoCurve)?;
    let rows = rows(settings, &scenario, &pilot);
    if let (Some(file), Some(row)) = (&settings.svg, rows.first()) {
        write_svg(file, &scenario, &row.outcome)?;
    }
    print(&SimulationReport { settings, scenario: &scenario, pilot: &pilot, rows }.to_string())
}

/// Different lengths of a simulation.
const LENGTHS: usize = 10_000;
/// Requests of a full load.
const BACKLOG: usize = 5000;

/// Returns a pilot with the cost model of a worker after its warm-up.
fn pilot(settings: &SimulateSettings, scenario: &Scenario) -> Option<PolicyPilot> {
    let (curve, most) = (&scenario.curve, settings.max_batch);
    let with = |fresh, usable| {
        PolicyPilot::new(fresh, usable, settings.slo)
            .with_batch(settings.batch)
            .watched(settings.max_batch_time)
            .refusing(settings.deadline())
    };
    if settings.lengths.is_some() {
        let bounds = (*scenario.lengths.iter().min()?, *scenario.lengths.iter().max()?);
        let (fresh, lengths) = curve.length_costs(most, bounds)?;
        let pilot = with(fresh, most).with_lengths(lengths, settings.mix());
        return Some(after_full_load(scenario, pilot));
    }
    let (fresh, usable) = match settings.batch {
        BatchMode::Auto => curve.warm_up(most, settings.slo, settings.max_batch_time)?,
        BatchMode::Fixed(_) => (curve.cost(most)?, most),
    };
    Some(with(fresh, usable))
}

/// Lets a worker run under full load, so that all workers know what padding costs there.
fn after_full_load(scenario: &Scenario, pilot: PolicyPilot) -> PolicyPilot {
    let mut trial = pilot.clone().queueing();
    let backlog = Scenario::new(scenario.curve.clone(), vec![0.0; BACKLOG], 1.0, 1);
    Scenario { lengths: scenario.lengths.clone(), ..backlog }.run(&mut trial);
    pilot.learning_from(&trial)
}

/// Runs the load with the given number of workers. If no number is given, runs the load with the
/// policy and with the baselines.
fn rows(settings: &SimulateSettings, scenario: &Scenario, pilot: &PolicyPilot) -> Vec<ReportRow> {
    let row = |workers, outcome| ReportRow { workers, outcome };
    if let Some(workers) = settings.workers {
        let scenario = Scenario { workers, ..scenario.clone() };
        let outcome = settings.sharding().run(&scenario, pilot);
        return vec![row(FleetSizing::Given, outcome)];
    }
    let max = settings.max_workers.max(1);
    let scaled = |min: u32| {
        let rule = ScalePolicy::new(min, max, settings.slo);
        let rule = ScalePolicy { trend: settings.trend, ..rule };
        let workers = at_start(scenario, pilot, rule);
        let scenario = Scenario { workers, ..scenario.clone() };
        scenario.run(&mut pilot.clone().scaling(rule, 1.0))
    };
    let min = settings.min_workers.min(max);
    let mut rows = vec![row(FleetSizing::Scaled, scaled(min))];
    let few_enough = |outcome: &SimulationOutcome| outcome.missed_share() <= FEW;
    if !few_enough(&rows[0].outcome) {
        let more = (min + 1..=max).map(|min| (min, scaled(min)));
        let kept = more.into_iter().find(|(_, outcome)| few_enough(outcome));
        rows.extend(kept.map(|(min, outcome)| row(FleetSizing::AtLeast(min), outcome)));
    }
    let fewest = plan::fewest(scenario, pilot, max);
    rows.extend(fewest.map(|(workers, outcome)| row(FleetSizing::Constant(workers), outcome)));
    let clairvoyant = plan::clairvoyant(scenario, pilot, max);
    rows.extend(clairvoyant.map(|outcome| row(FleetSizing::Clairvoyant, outcome)));
    rows
}

/// Returns the workers needed for the load of the first minute, as if the fleet had been running
/// before.
fn at_start(scenario: &Scenario, pilot: &PolicyPilot, rule: ScalePolicy) -> u32 {
    let window = scenario.duration.min(60.0);
    let count = scenario.arrivals.partition_point(|&at| at < window);
    #[expect(clippy::cast_precision_loss, reason = "requests of a minute")]
    let rate = count as f64 / window;
    let capacity = |workers| pilot.capacity(workers);
    let workers = fewest(rate, rule.utilization, rule.max, capacity).unwrap_or(rule.max);
    workers.clamp(rule.min.max(1), rule.max)
}

fn check_goals() -> Result<(), SimulateError> {
    let mut broken = None;
    let reached = goals::all(|goal| {
        broken = print(&format!("{goal}\n")).err();
        broken.is_none()
    });
    match broken {
        Some(error) => Err(error),
        None if reached => Ok(()),
        None => Err(SimulateError::Goals),
    }
}

fn write_svg(
    file: &Path,
    scenario: &Scenario,
    outcome: &SimulationOutcome,
) -> Result<(), SimulateError> {
    fs::write(file, drawing::draw(scenario, outcome))
        .map_err(|error| SimulateError::Write { what: file.display().to_string(), error })
}

fn print(text: &str) -> Result<(), SimulateError> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| SimulateError::Write { what: "the result".to_owned(), error })
}
