//! Families of metrics: made, registered and remembered with their meaning in one step, so that what
//! is documented is what is served.

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, Result,
    core::Collector,
};

/// What a family is called and what it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its whole name.
    pub name: &'static str,
    /// What is counted or measured: `requests`, `seconds`.
    pub unit: &'static str,
    /// The names of its labels, each with few values.
    pub labels: Vec<&'static str>,
    /// What moves it.
    pub help: &'static str,
}

/// A [`Family`].
pub fn family(
    name: &'static str,
    unit: &'static str,
    labels: &[&'static str],
    help: &'static str,
) -> Family {
    Family { name, unit, labels: labels.to_vec(), help }
}

/// A family that is served, and its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The family.
    pub family: Family,
}

/// Makes families, registers them and remembers what they mean.
#[derive(Debug, Default)]
pub struct Families {
    registry: Registry,
    described: Vec<Described>,
}

impl Families {
    /// Into this registry.
    pub fn new(registry: &Registry) -> Self {
        Self { registry: registry.clone(), described: Vec::new() }
    }

    /// Everything made so far.
    pub fn described(self) -> Vec<Described> {
        self.described
    }

    /// A number that only rises.
    ///
    /// # Errors
    /// If the name is taken, as below.
    pub fn counter(&mut self, family: Family) -> Result<IntCounterVec> {
        let metric = IntCounterVec::new(options(&family), &family.labels)?;
        self.register("counter", family, metric)
    }

    /// A whole number that rises and falls.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn gauge(&mut self, family: Family) -> Result<IntGaugeVec> {
        let metric = IntGaugeVec::new(options(&family), &family.labels)?;
        self.register("gauge", family, metric)
    }

    /// A number that rises and falls.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn measure(&mut self, family: Family) -> Result<GaugeVec> {
        let metric = GaugeVec::new(options(&family), &family.labels)?;
        self.register("gauge", family, metric)
    }

    /// How many of what is observed are at most how large.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn histogram(&mut self, family: Family, bounds: &[f64]) -> Result<HistogramVec> {
        let options = HistogramOpts::from(options(&family)).buckets(bounds.to_vec());
        let metric = HistogramVec::new(options, &family.labels)?;
        self.register("histogram", family, metric)
    }

    fn register<M: Collector + Clone + 'static>(
        &mut self,
        kind: &'static str,
        family: Family,
        metric: M,
    ) -> Result<M> {
        self.registry.register(Box::new(metric.clone()))?;
        self.described.push(Described { kind, family });
        Ok(metric)
    }
}

fn options(family: &Family) -> Opts {
    Opts::new(family.name, family.help)
}

/// What every process says of itself, beside the `process_*` metrics of Prometheus' own libraries.
///
/// # Errors
/// If the name is taken.
pub fn register_build(make: &mut Families) -> Result<()> {
    let build = make.gauge(family(
        "batchfleet_build_info",
        "1",
        &["version"],
        "1, for the version that runs",
    ))?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    Ok(())
}

/// Says in Markdown what the metrics of a program mean, by name.
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

    #[test]
    fn what_is_made_is_described_and_registered_once() {
        let registry = Registry::new();
        let mut make = Families::new(&registry);
        register_build(&mut make).unwrap();
        assert!(register_build(&mut make).is_err());
        assert_eq!(registry.gather()[0].name(), "batchfleet_build_info");
        let described = make.described();
        assert_eq!(described.len(), 1);
        assert_eq!((described[0].kind, described[0].family.unit), ("gauge", "1"));
    }
}
