//! `batchfleet simulate`: how many workers a load needs, and what it gets from them.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use batchfleet_policy::ScalePolicy;

use crate::{
    engine::Scenario,
    error::SimulateError,
    goals,
    outcome::Outcome,
    pilot::Ours,
    plan,
    report::{FEW, Line, Report, Workers},
    settings::SimulateSettings,
    svg,
};

/// Simulates what the settings say, and prints what came of it.
///
/// # Errors
///
/// What is wrong with the settings or the files; [`SimulateError::Goals`] if goals were asked for
/// and one is missed.
pub fn simulate(settings: &SimulateSettings) -> Result<(), SimulateError> {
    if settings.goals {
        return check_goals();
    }
    let curve = settings.curve()?;
    let (load, length) = settings.load()?;
    let fresh = curve.cost(settings.max_batch).ok_or(SimulateError::NoCurve)?;
    let pilot = Ours::new(fresh, settings.max_batch, settings.slo)
        .with_batch(settings.batch)
        .refusing(settings.deadline());
    let scenario = Scenario {
        slo: settings.slo,
        cold_start: settings.cold_start,
        ..Scenario::new(curve, load.arrivals(length, settings.seed), length, 1)
    };
    let lines = lines(settings, &scenario, &pilot);
    if let (Some(file), Some(line)) = (&settings.svg, lines.first()) {
        write_svg(file, &scenario, &line.outcome)?;
    }
    print(&Report { settings, scenario: &scenario, pilot: &pilot, lines }.to_string())
}

/// Plays the load on as many workers as are fixed, or as our rule orders, and on what that is
/// compared with.
fn lines(settings: &SimulateSettings, scenario: &Scenario, pilot: &Ours) -> Vec<Line> {
    let line = |workers, outcome| Line { workers, outcome };
    if let Some(workers) = settings.workers {
        let outcome = Scenario { workers, ..scenario.clone() }.run(&mut pilot.clone());
        return vec![line(Workers::Given, outcome)];
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
    let mut lines = vec![line(Workers::Needed, scaled(min))];
    let few_enough = |outcome: &Outcome| outcome.missed_share() <= FEW;
    if !few_enough(&lines[0].outcome) {
        let more = (min + 1..=max).map(|min| (min, scaled(min)));
        let kept = more.into_iter().find(|(_, outcome)| few_enough(outcome));
        lines.extend(kept.map(|(min, outcome)| line(Workers::AtLeast(min), outcome)));
    }
    let fewest = plan::fewest(scenario, pilot, max);
    lines.extend(fewest.map(|(workers, outcome)| line(Workers::Always(workers), outcome)));
    let foreseen = plan::clairvoyant(scenario, pilot, max);
    lines.extend(foreseen.map(|outcome| line(Workers::Foreseen, outcome)));
    lines
}

/// What the load of the first minute needs: a fleet that has run for long.
fn at_start(scenario: &Scenario, pilot: &Ours, rule: ScalePolicy) -> u32 {
    let window = scenario.duration.min(60.0);
    let count = scenario.arrivals.partition_point(|&at| at < window);
    #[expect(clippy::cast_precision_loss, reason = "requests of a minute")]
    let rate = count as f64 / window;
    let copes =
        |&workers: &u32| rule.utilization * f64::from(workers) * pilot.capacity(workers) >= rate;
    (rule.min.max(1)..rule.max).find(copes).unwrap_or(rule.max)
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

fn write_svg(file: &Path, scenario: &Scenario, outcome: &Outcome) -> Result<(), SimulateError> {
    fs::write(file, svg::draw(scenario, outcome))
        .map_err(|error| SimulateError::Write { what: file.display().to_string(), error })
}

fn print(text: &str) -> Result<(), SimulateError> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| SimulateError::Write { what: "the result".to_owned(), error })
}
