//! Metrics of a process. The [`metrics!`](crate::metrics!) macro turns one struct into registered
//! metrics and into the descriptions from which docs/reference/metrics.md is generated.

mod exemplars;
mod macros;
pub(crate) mod openmetrics;
mod series;

use batchfleet_broker::redis::{Denials, denials};
pub use prometheus::Result;
use prometheus::{
    Counter, CounterVec, Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec,
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

pub use self::{
    exemplars::{TracedHistogram, TracedHistogramVec},
    series::Labels,
};
use crate::{logs, memory, trace};

/// The definition of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The full name.
    pub name: &'static str,
    /// The unit of the value, such as `requests` or `seconds`.
    pub unit: &'static str,
    /// The names of the labels. Each label has few values.
    pub labels: &'static [&'static str],
    /// What the value means.
    pub help: &'static str,
}

/// The definition and the type of a metric, for the documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The definition.
    pub family: Family,
}

/// A struct of metrics, defined with the [`metrics!`](crate::metrics!) macro.
pub trait MetricGroup: Sized {
    /// Creates and registers all metrics of the group.
    ///
    /// # Errors
    ///
    /// If a name is already registered, or a definition contradicts its type.
    fn make(families: &mut Families) -> Result<Self>;

    /// Registers the group with `registry`.
    ///
    /// # Errors
    ///
    /// The same as [`make`](Self::make).
    fn register(registry: &Registry) -> Result<Self> {
        Self::make(&mut Families::new(registry))
    }

    /// Returns the definitions of all metrics of the group, including nested groups.
    ///
    /// # Errors
    ///
    /// The same as [`make`](Self::make).
    fn describe() -> Result<Vec<Described>> {
        let mut families = Families::default();
        Self::make(&mut families)?;
        Ok(families.described())
    }

    /// Removes the series whose labels satisfy `is_gone` from all metrics of the group, including
    /// nested groups. A metric without labels stays.
    fn remove_series(&self, is_gone: &dyn Fn(&Labels<'_>) -> bool);
}

/// A metric type of the `prometheus` crate.
pub trait Metric: Collector + Clone + 'static {
    /// The name of the type in Prometheus' text format: `counter`, `gauge` or `histogram`.
    const KIND: &'static str;

    /// Creates a metric. `options` contains the buckets of a histogram.
    ///
    /// # Errors
    ///
    /// If a name is not valid in Prometheus.
    fn with(options: HistogramOpts, labels: &[&str]) -> Result<Self>;

    /// Removes the series whose labels satisfy `is_gone`; a metric without labels stays.
    fn remove_where(&self, is_gone: &dyn Fn(&Labels<'_>) -> bool);
}

/// Implements [`Metric`] for a type with a single series and for the corresponding `Vec` type.
macro_rules! metric_types {
    ($($kind:literal $Single:ident $Vec:ident $(. $common:ident)?;)+) => {$(
        impl Metric for $Single {
            const KIND: &'static str = $kind;

            fn with(options: HistogramOpts, labels: &[&str]) -> Result<Self> {
                if !labels.is_empty() {
                    let name = options.common_opts.name;
                    return Err(Error::Msg(format!("{name} has labels: its type must be a Vec")));
                }
                Self::with_opts(options $(.$common)?)
            }

            fn remove_where(&self, _: &dyn Fn(&Labels<'_>) -> bool) {}
        }

        impl Metric for $Vec {
            const KIND: &'static str = $kind;

            fn with(options: HistogramOpts, labels: &[&str]) -> Result<Self> {
                Self::new(options $(.$common)?, labels)
            }

            fn remove_where(&self, is_gone: &dyn Fn(&Labels<'_>) -> bool) {
                series::remove(self, is_gone);
            }
        }
    )+};
}

metric_types! {
    "counter" IntCounter IntCounterVec .common_opts;
    "counter" Counter CounterVec .common_opts;
    "gauge" IntGauge IntGaugeVec .common_opts;
    "gauge" Gauge GaugeVec .common_opts;
    "histogram" Histogram HistogramVec;
}

/// Creates metrics, registers them, and collects their definitions.
#[derive(Debug, Default)]
pub struct Families {
    registry: Registry,
    described: Vec<Described>,
}

impl Families {
    /// Creates the collection for metrics of `registry`.
    fn new(registry: &Registry) -> Self {
        Self { registry: registry.clone(), described: Vec::new() }
    }

    /// Returns the definitions of the metrics created so far.
    fn described(self) -> Vec<Described> {
        self.described
    }

    /// Creates and registers a metric. `buckets` are the upper bounds of a histogram's buckets, and
    /// empty for other types.
    ///
    /// # Errors
    ///
    /// If the name is already registered, or the definition contradicts the type.
    pub fn add<M: Metric>(&mut self, family: Family, buckets: &[f64]) -> Result<M> {
        if buckets.is_empty() == (M::KIND == "histogram") {
            return Err(Error::Msg(format!(
                "{}: histograms have buckets, others not",
                family.name
            )));
        }
        let options = HistogramOpts::from(Opts::new(family.name, family.help));
        let metric = M::with(options.buckets(buckets.to_vec()), family.labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        self.described.push(Described { kind: M::KIND, family });
        Ok(metric)
    }
}

/// Returns the help text in the doc comment of a field of [`metrics!`](crate::metrics!).
#[doc(hidden)]
pub fn help(doc: &'static str) -> &'static str {
    let text = doc.trim();
    text.strip_suffix('.').unwrap_or(text)
}

/// Returns upper bounds of histogram buckets: `first`, and twice the previous bound for each next
/// bucket.
pub const fn doubling<const BUCKETS: usize>(first: f64) -> [f64; BUCKETS] {
    let mut bounds = [first; BUCKETS];
    let mut n = 1;
    while n < BUCKETS {
        bounds[n] = 2.0 * bounds[n - 1];
        n += 1;
    }
    bounds
}

crate::metrics! {
    /// Metrics of every process, beside the `process_*` metrics of Prometheus' own library.
    #[derive(Debug)]
    pub struct ProcessMetrics {
        /// 1, for the version that runs.
        #[metric("batchfleet_build_info", unit = "1", labels = ["version"])]
        build: IntGaugeVec,
        /// Memory that the process may use: the limit of its container, or the memory of the machine if
        /// that is smaller.
        #[metric("batchfleet_memory_limit_bytes", unit = "bytes")]
        memory_limit: IntGauge,
        /// Log lines that standard error did not take or that waited too long.
        #[metric("batchfleet_log_lines_lost_total", unit = "lines")]
        lost_lines: IntCounter,
        /// Warnings and errors of libraries that were not logged, because the same line was logged
        /// less than 10 seconds before.
        #[metric("batchfleet_log_lines_repeated_total", unit = "lines")]
        repeated_lines: IntCounter,
        /// Spans of traces that the collector did not take or that waited too long.
        #[metric("batchfleet_trace_spans_lost_total", unit = "spans")]
        lost_spans: IntCounter,
        /// Connections and commands that Redis denied: `password` for a wrong user or password,
        /// `permission` for a command that the user may not run.
        #[metric("batchfleet_redis_denied_total", unit = "calls", labels = ["reason"])]
        denied: IntCounterVec,
    }
}

impl ProcessMetrics {
    /// Sets the metrics before they are read.
    pub(crate) fn update(&self) {
        self.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        self.memory_limit.set(memory::limit().try_into().unwrap_or(i64::MAX));
        follow(&self.lost_lines, logs::lost());
        follow(&self.repeated_lines, logs::repeated());
        follow(&self.lost_spans, trace::lost());
        let Denials { password, permission } = denials();
        follow(&self.denied.with_label_values(&["password"]), password);
        follow(&self.denied.with_label_values(&["permission"]), permission);
    }
}

/// Raises a counter to a total that is counted elsewhere.
fn follow(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// Returns a Markdown table of metrics, sorted by name.
pub fn table(described: &[Described]) -> String {
    let row = |Described { kind, family: Family { name, unit, labels, help } }: &Described| {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {kind} | {} | {unit} | {help} |\n", labels.join(", "))
    };
    let mut rows: Vec<_> = described.iter().map(row).collect();
    rows.sort();
    format!("| name | type | labels | unit | meaning |\n|---|---|---|---|---|\n{}", rows.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::metrics! {
        /// A group with one metric of each kind.
        struct TestMetrics {
            /// Rows of a batch,
            /// without padding.
            #[metric("test_rows", unit = "rows", labels = ["model"], buckets = doubling::<3>(1.0))]
            rows: HistogramVec,
            /// Replies sent.
            #[metric("test_replies_total", unit = "replies")]
            replies: IntCounter,
            /// The version.
            process: ProcessMetrics,
        }
    }

    #[test]
    fn a_field_is_registered_and_described_once() {
        let registry = Registry::new();
        let metrics = TestMetrics::register(&registry).unwrap();
        assert!(TestMetrics::register(&registry).is_err());
        metrics.rows.with_label_values(&["echo"]).observe(3.0);
        metrics.replies.inc();
        metrics.process.update();
        let names: Vec<_> =
            registry.gather().iter().map(|family| family.name().to_owned()).collect();
        assert_eq!(
            names,
            [
                "batchfleet_build_info",
                "batchfleet_log_lines_lost_total",
                "batchfleet_log_lines_repeated_total",
                "batchfleet_memory_limit_bytes",
                "batchfleet_redis_denied_total",
                "batchfleet_trace_spans_lost_total",
                "test_replies_total",
                "test_rows"
            ]
        );

        let described = TestMetrics::describe().unwrap();
        let kinds: Vec<_> = described.iter().map(|metric| metric.kind).collect();
        assert_eq!(
            kinds,
            ["histogram", "counter", "gauge", "gauge", "counter", "counter", "counter", "counter"]
        );
        let Family { name, unit, labels, help } = described[0].family;
        assert_eq!((name, unit, help), ("test_rows", "rows", "Rows of a batch, without padding"));
        assert_eq!(labels, ["model"]);
    }

    #[test]
    fn a_definition_that_contradicts_its_type_is_an_error() {
        let family = |labels| Family { name: "test", unit: "1", labels, help: "Nothing" };
        let mut families = Families::default();
        assert!(families.add::<IntCounter>(family(&["model"]), &[]).is_err());
        assert!(families.add::<IntCounterVec>(family(&["model"]), &[1.0]).is_err());
        assert!(families.add::<HistogramVec>(family(&["model"]), &[]).is_err());
        assert!(families.described().is_empty());
    }

    #[test]
    fn bounds_double() {
        assert_eq!(doubling::<4>(0.25).map(f64::to_bits), [0.25, 0.5, 1.0, 2.0].map(f64::to_bits));
    }
}
