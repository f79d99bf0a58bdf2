//! The printed report of a simulation.

use std::{fmt, time::Duration};

use batchfleet_policy::{BatchPolicy, QueueLoad};

use crate::{
    engine::Scenario, outcome::SimulationOutcome, pilot::PolicyPilot, settings::SimulateSettings,
};

/// A report.
pub(crate) struct SimulationReport<'a> {
    /// Settings given by the user.
    pub(crate) settings: &'a SimulateSettings,
    /// The load and the model.
    pub(crate) scenario: &'a Scenario,
    /// The pilot that made the decisions.
    pub(crate) pilot: &'a PolicyPilot,
    /// Outcomes for different numbers of workers. The first row is the outcome of the policy or of
    /// `--workers`.
    pub(crate) rows: Vec<ReportRow>,
}

/// The largest acceptable share of missed requests.
pub(crate) const FEW: f64 = 0.01;

/// The outcome for one way to choose the number of workers.
pub(crate) struct ReportRow {
    /// How the number of workers was chosen.
    pub(crate) workers: FleetSizing,
    /// The outcome.
    pub(crate) outcome: SimulationOutcome,
}

/// How the number of workers is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FleetSizing {
    /// A constant number, given by `--workers`.
    Given,
    /// Decided by the policy.
    Scaled,
    /// Decided by the policy, with this minimum.
    AtLeast(u32),
    /// The smallest sufficient constant number.
    Constant(u32),
    /// From the clairvoyant plan.
    Clairvoyant,
}

impl fmt::Display for FleetSizing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.pad("as given by --workers"),
            Self::Scaled => f.pad("scaled to the load"),
            Self::AtLeast(workers) => f.pad(&format!("scaled, at least {workers}")),
            Self::Constant(workers) => f.pad(&format!("constant {workers}")),
            Self::Clairvoyant => f.pad("clairvoyant"),
        }
    }
}

impl fmt::Display for SimulationReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, scenario, .. } = self;
        let time = |duration: Duration| humantime::format_duration(duration).to_string();
        let length = Duration::from_secs(Duration::from_secs_f64(scenario.duration).as_secs());
        let requests = self.rows.first().map_or(0, |row| row.outcome.offered);
        let load = settings.describe_load();
        writeln!(f, "Load:   {load}; {requests} requests in {}", time(length))?;
        writeln!(f, "Model:  {}; at most {} rows", scenario.curve, settings.max_batch)?;
        if let Some(lengths) = &settings.lengths {
            writeln!(f, "Lengths: {lengths}; {}", settings.mix())?;
        }
        writeln!(
            f,
            "Target: p99 within {}; requests that cannot be answered within {} are refused",
            time(settings.slo),
            time(settings.deadline())
        )?;
        self.capacity(f)?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<26}{:>9}{:>9}{:>10}{:>10}{:>10}{:>8}",
            "workers", "number", "hours", "missed", "p50", "p99", "batch"
        )?;
        self.rows.iter().try_for_each(|row| row.fmt(f))?;
        writeln!(f)?;
        self.conclusion(f)
    }
}

impl SimulationReport<'_> {
    /// Writes the capacity and N of one worker, and of the largest number of workers.
    fn capacity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.most();
        let mut numbers = vec![1, most];
        numbers.dedup();
        for workers in numbers {
            let policy =
                BatchPolicy::new(self.settings.batch, self.settings.max_batch, self.settings.slo);
            let row_units = self.pilot.row_units();
            let load = QueueLoad::unknown(workers);
            let choice = policy.in_units(row_units).choose(self.pilot.cost(usize::MAX), &load);
            let all = f64::from(workers) * self.pilot.capacity(workers);
            writeln!(
                f,
                "{workers:>2} worker{} up to {all:.0}/s, N = {:.0} ({})",
                if workers == 1 { ": " } else { "s:" },
                (f64::from(choice.n) / row_units).floor().max(1.0),
                choice.bound.code()
            )?;
        }
        Ok(())
    }

    fn most(&self) -> u32 {
        self.rows.first().map_or(1, |row| row.outcome.extremes().1).max(1)
    }

    /// Writes how many workers the load needs.
    fn conclusion(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(scaled) = self.rows.first() else { return Ok(()) };
        let missed = scaled.outcome.missed_share();
        let shortest = self.scenario.lengths.iter().min().copied().unwrap_or(1);
        let one = Duration::from_secs_f64(self.scenario.curve.seconds_of(1, shortest));
        if one > self.settings.deadline() {
            let one = humantime::format_duration(one);
            return writeln!(f, "One request alone takes {one}: raise --slo, or --deadline.");
        }
        if self.settings.workers.is_some() {
            let rate = scaled.outcome.rate();
            write!(f, "Answered: {rate:.1}/s. Missed: {}.", percent(missed))?;
            if self.settings.lengths.is_some() {
                write!(f, " Padding: {} of what ran.", percent(scaled.outcome.padding()))?;
            }
            return writeln!(f);
        }
        let cold = humantime::format_duration(self.settings.cold_start);
        match scaled.outcome.extremes() {
            (fewest, most) if fewest == most => writeln!(f, "You need {most}.")?,
            (_, most) if missed > FEW && most >= self.settings.max_workers => {
                writeln!(f, "You need more than {most} (--max-workers).")?;
            }
            (fewest, most) if missed > FEW => writeln!(
                f,
                "You need {fewest} to {most}. Most missed requests arrive while workers start \
                 ({cold})."
            )?,
            (fewest, most) => writeln!(f, "You need {fewest} to {most}.")?,
        }
        let hours = |row: &&ReportRow| row.outcome.worker_seconds;
        let good = self.rows.iter().filter(|row| {
            row.workers != FleetSizing::Clairvoyant && row.outcome.missed_share() <= FEW
        });
        match good.min_by(|a, b| hours(a).total_cmp(&hours(b))) {
            Some(row) if row.workers != FleetSizing::Scaled => {
                writeln!(f, "The cheapest with less than 1 % missed: {}.", row.workers)
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for ReportRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = &self.outcome;
        let number = match outcome.extremes() {
            (fewest, most) if fewest == most => most.to_string(),
            (fewest, most) => format!("{fewest}-{most}"),
        };
        let ms = |quantile| format!("{:.1} ms", outcome.latency(quantile) * 1e3);
        writeln!(
            f,
            "{:<26}{number:>9}{:>9.2}{:>10}{:>10}{:>10}{:>8.1}",
            self.workers,
            outcome.worker_seconds / 3600.0,
            percent(outcome.missed_share()),
            ms(0.5),
            ms(0.99),
            outcome.mean_batch()
        )
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}
