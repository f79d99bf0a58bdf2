//! Lines of the tables.

use crate::rig::{Measured, latency_ms, load_average};

/// The heading over the lines.
pub(crate) fn heading(what: &str) {
    println!(
        "\n| {what} | req/s | p50 ms | p99 ms | errors | mean batch | CPU µs/req: gateway | Redis | \
         worker | sum | commands/req | load avg |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
}

/// What a run came to.
pub(crate) fn line(name: &str, measured: &Measured) {
    let Measured { report, batch, cpu, commands } = measured;
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

/// A figure and the goal it is compared with.
pub(crate) fn goal(what: &str, figure: &str, kept: bool, goal: &str) {
    let verdict = if kept { "met" } else { "NOT met" };
    println!("{what}: {figure} (goal {goal}): {verdict}");
}

/// The middle of some figures; 0 of none.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}
