//! The lines of the printed tables.

use crate::rig::{Measurement, latency_ms, load_average};

/// Prints the heading of a table.
pub(crate) fn heading(what: &str) {
    println!(
        "\n| {what} | req/s | p50 ms | p99 ms | errors | mean batch | CPU µs/req: gateway | Redis | \
         worker | sum | commands/req | load avg |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
}

/// Prints a measurement.
pub(crate) fn line(name: &str, measured: &Measurement) {
    let Measurement { report, batch, cpu, commands } = measured;
    println!(
        "| {name} | {:.0} | {:.2} | {:.2} | {} | {batch:.1} | {:.1} | {:.1} | {:.1} | {:.1} | \
         {commands:.2} | {} |",
        report.rate(),
        latency_ms(report, 0.5),
        latency_ms(report, 0.99),
        measured.errors(),
        cpu.gateway,
        cpu.redis,
        cpu.worker,
        cpu.sum(),
        load_average(),
    );
}

/// Prints a figure, the goal, and whether the goal is met.
pub(crate) fn goal(what: &str, figure: &str, kept: bool, goal: &str) {
    let verdict = if kept { "met" } else { "NOT met" };
    println!("{what}: {figure} (goal {goal}): {verdict}");
}

/// The median; 0 if there are no figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}
