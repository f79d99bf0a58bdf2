//! A simulation in words and figures.

use std::{fmt, time::Duration};

use batchfleet_policy::{BatchPolicy, Demand};

use crate::{engine::Scenario, outcome::Outcome, pilot::Ours, settings::SimulateSettings};

/// What is told.
pub(crate) struct Report<'a> {
    /// What was asked.
    pub(crate) settings: &'a SimulateSettings,
    /// What was played.
    pub(crate) scenario: &'a Scenario,
    /// Who decided.
    pub(crate) pilot: &'a Ours,
    /// What came of it, ours first.
    pub(crate) lines: Vec<Line>,
}

/// The share of missed requests that is few enough.
pub(crate) const FEW: f64 = 0.01;

/// What came of the load with so many workers.
pub(crate) struct Line {
    /// How many.
    pub(crate) workers: Workers,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

/// How many workers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    /// As many as the user said.
    Given,
    /// As our rule says.
    Needed,
    /// As our rule says, but so many at least.
    AtLeast(u32),
    /// The fewest that do all the time.
    Always(u32),
    /// As whoever knew the future would have it.
    Foreseen,
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.pad("as many as you said"),
            Self::Needed => f.pad("as the load needs them"),
            Self::AtLeast(workers) => f.pad(&format!("the same, at least {workers}")),
            Self::Always(workers) => f.pad(&format!("always {workers}")),
            Self::Foreseen => f.pad("knowing the future"),
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, scenario, .. } = self;
        let time = |duration: Duration| humantime::format_duration(duration).to_string();
        let length = Duration::from_secs(Duration::from_secs_f64(scenario.duration).as_secs());
        writeln!(
            f,
            "Load:   {}; {} requests in {}",
            settings.load_in_words(),
            scenario.arrivals.len(),
            time(length)
        )?;
        writeln!(f, "Model:  {}; at most {} rows", scenario.curve, settings.max_batch)?;
        writeln!(
            f,
            "Target: p99 within {}; what cannot be answered within {} is refused",
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
        self.lines.iter().try_for_each(|line| line.fmt(f))?;
        writeln!(f)?;
        self.answer(f)
    }
}

impl Report<'_> {
    /// What workers can do, and with which N.
    fn capacity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.most();
        let mut numbers = vec![1, most];
        numbers.dedup();
        for workers in numbers {
            let policy =
                BatchPolicy::new(self.settings.batch, self.settings.max_batch, self.settings.slo);
            let choice = policy.choose(self.pilot.cost(usize::MAX), &Demand::unknown(workers));
            let all = f64::from(workers) * self.pilot.capacity(workers);
            writeln!(
                f,
                "{workers:>2} worker{} up to {all:.0}/s, N = {} ({})",
                if workers == 1 { ": " } else { "s:" },
                choice.n,
                choice.bound.code()
            )?;
        }
        Ok(())
    }

    fn most(&self) -> u32 {
        self.lines.first().map_or(1, |line| line.outcome.extremes().1).max(1)
    }

    fn answer(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ours) = self.lines.first() else { return Ok(()) };
        let missed = ours.outcome.missed_share();
        let one = Duration::from_secs_f64(self.scenario.curve.seconds(1));
        if one > self.settings.deadline() {
            let one = humantime::format_duration(one);
            return writeln!(f, "One request alone takes {one}: raise --slo, or --deadline.");
        }
        if self.settings.workers.is_some() {
            return writeln!(f, "They miss {}.", percent(missed));
        }
        let cold = humantime::format_duration(self.settings.cold_start);
        match ours.outcome.extremes() {
            (fewest, most) if fewest == most => writeln!(f, "You need {most}.")?,
            (_, most) if missed > FEW && most >= self.settings.max_workers => {
                writeln!(f, "You need more than {most} (--max-workers).")?;
            }
            (fewest, most) if missed > FEW => writeln!(
                f,
                "You need {fewest} to {most}. Most of what is missed comes while workers start \
                 ({cold})."
            )?,
            (fewest, most) => writeln!(f, "You need {fewest} to {most}.")?,
        }
        let hours = |line: &&Line| line.outcome.worker_seconds;
        let good = self
            .lines
            .iter()
            .filter(|line| line.workers != Workers::Foreseen && line.outcome.missed_share() <= FEW);
        match good.min_by(|a, b| hours(a).total_cmp(&hours(b))) {
            Some(line) if line.workers != Workers::Needed => {
                writeln!(f, "The cheapest that misses less than 1 %: {}.", line.workers)
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Line {
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
