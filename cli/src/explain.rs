//! `batchfleet explain`: how a model's requests are batched, and why.

use std::{
    fmt::{self, Display, Formatter},
    process::ExitCode,
    time::Duration,
};

use batchfleet_broker::Batching;
use batchfleet_gateway::explain::{Explanation, Member};
use batchfleet_loadgen::model::ask_about;
use clap::Args;

use crate::{server::ServerSettings, tool::say};

/// Timeout of the request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of `batchfleet explain`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExplainSettings {
    /// The model
    model: String,

    /// URL of a gateway, or of a load balancer
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,

    #[command(flatten)]
    server: ServerSettings,
}

/// Requests the explanation and prints it.
pub(crate) async fn main(settings: &ExplainSettings) -> anyhow::Result<ExitCode> {
    let target = settings.server.target(&settings.url)?;
    let explanation = ask_about(&target, &settings.model, "/batching", TIMEOUT).await?;
    say(&ExplanationText(&explanation).to_string());
    Ok(ExitCode::SUCCESS)
}

/// An explanation as text.
struct ExplanationText<'a>(&'a Explanation);

impl Display for ExplanationText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Explanation { model, version, why, notes, queue_depth, capacity, workers, n, .. } =
            self.0;
        writeln!(f, "{model} version {version}\n\n{why}")?;
        notes.iter().try_for_each(|note| writeln!(f, "{note}"))?;
        writeln!(f)?;
        let rate = self.0.rows_per_second;
        writeln!(
            f,
            "load      {} rows/s accepted, {queue_depth} requests waiting",
            known(rate, 0)
        )?;
        writeln!(f, "capacity  {capacity:.0} rows/s within the latency target")?;
        let (wanted, twice) = (workers.wanted, workers.wanted_at_twice_the_load);
        let count = |wanted: Option<u32>| known(wanted.map(f64::from), 0);
        writeln!(
            f,
            "workers   {} live, {} wanted; {} at twice the load",
            workers.live,
            count(wanted),
            count(twice)
        )?;
        writeln!(
            f,
            "N         {} to {}; {} at twice the load, {} at full load",
            count(n.least),
            count(n.most),
            count(n.at_twice_the_load),
            count(n.at_full_load)
        )?;
        self.0.by_worker.iter().try_for_each(|member| write_worker(f, member))
    }
}

/// The cost model of one worker and its last batches.
fn write_worker(f: &mut Formatter<'_>, member: &Member) -> fmt::Result {
    let Member { worker, capacity, batching } = member;
    writeln!(f, "\nworker {worker}  {capacity:.0} rows/s")?;
    let (low, high) = batching.interval;
    writeln!(
        f,
        "  N = {} ({}), between {low} (keeps up with the load) and {high} (limit within {:.0} ms)",
        batching.n, batching.bound, batching.slo_ms
    )?;
    if batching.overloaded {
        writeln!(f, "  overloaded: the load exceeds the capacity within the latency target")?;
    }
    let fixed = if batching.fixed_sizes { ", fixed sizes" } else { "" };
    if batching.size_change_ms > 0.0 {
        let change = batching.size_change_ms;
        writeln!(f, "  a batch takes {change:.1} ms longer if the batch before had another size")?;
    }
    if batching.padding_share > 0.0 {
        let share = 100.0 * batching.padding_share;
        writeln!(f, "  {share:.0} % of full batches is padding of shorter requests")?;
    }
    if batching.rows_lost_to_shapes >= 0.05 {
        let lost = batching.rows_lost_to_shapes;
        writeln!(
            f,
            "  a batch has {lost:.1} fewer rows because waiting requests have other shapes"
        )?;
    }
    if !batching.units_by_length.is_empty() {
        write_lengths(f, batching)?;
    }
    writeln!(f, "  L(b), {:.2} times that at start-up{fixed}:", batching.gain)?;
    for (rows, ms) in &batching.curve {
        writeln!(f, "  {rows:>6} rows {ms:>10.3} ms {:>10.0} rows/s", f64::from(*rows) / ms * 1e3)?;
    }
    if !batching.recent.is_empty() {
        writeln!(f, "  last batches, latest first:")?;
    }
    for batch in &batching.recent {
        writeln!(
            f,
            "  {:>6} rows {:>10.3} ms, padded by {}, N = {}, released because: {}",
            batch.rows, batch.ms, batch.padding, batch.limit, batch.release
        )?;
    }
    Ok(())
}

/// What rows cost by their length, at each fourth power of two.
fn write_lengths(f: &mut Formatter<'_>, batching: &Batching) -> fmt::Result {
    let (usual, n) = (batching.row_units, f64::from(batching.n) * batching.row_units);
    let costs = batching.units_by_length.iter().skip(3).step_by(2);
    let costs: Vec<String> = costs.map(|(length, units)| format!("{length}: {units:.1}")).collect();
    writeln!(f, "  rows cost units by their length: {}", costs.join(", "))?;
    writeln!(f, "  a row of the usual length costs {usual:.1} units, N rows cost {n:.0}")
}

fn known(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.digits$}"))
}
