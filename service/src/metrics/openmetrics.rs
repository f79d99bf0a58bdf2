//! Writes metrics in the OpenMetrics text format, which the `prometheus` crate cannot write. In
//! contrast to Prometheus' text format, it has exemplars.
//!
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::{num::NonZeroU128, time::UNIX_EPOCH};

use prometheus::proto::{Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::exemplars::{Exemplar, Exemplars};

/// The media type of the format.
pub(crate) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The units of names: a name that ends with one of them states the unit of its values.
const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];

/// Writes the families as one exposition.
pub(crate) fn encode(families: &[MetricFamily]) -> String {
    let mut page = Page::default();
    for family in families {
        page.family(family);
    }
    page.0.push_str("# EOF\n");
    page.0
}

/// The name and the type of a family. The name of a counter ends in `_total`, which is no part of the
/// family's name. A counter with another name, such as Triton's, is written with the type `unknown`,
/// so that its series has the same name in both text formats.
fn name_and_type(family: &MetricFamily) -> (&str, &'static str) {
    let name = family.name();
    match family.get_field_type() {
        MetricType::COUNTER => {
            name.strip_suffix("_total").map_or((name, "unknown"), |name| (name, "counter"))
        }
        MetricType::GAUGE => (name, "gauge"),
        MetricType::HISTOGRAM => (name, "histogram"),
        MetricType::SUMMARY => (name, "summary"),
        MetricType::UNTYPED => (name, "unknown"),
    }
}

/// The exposition written so far.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, family: &MetricFamily) {
        let (name, kind) = name_and_type(family);
        self.line(&["# TYPE ", name, " ", kind]);
        let has_unit =
            |unit: &&&str| name.strip_suffix(**unit).is_some_and(|name| name.ends_with('_'));
        if let Some(unit) = UNITS.iter().find(has_unit) {
            self.line(&["# UNIT ", name, " ", unit]);
        }
        self.line(&["# HELP ", name, " ", &escaped(family.help())]);
        for metric in family.get_metric() {
            let labels = metric.get_label();
            match family.get_field_type() {
                MetricType::COUNTER => {
                    self.sample(
                        family.name(),
                        "",
                        labels,
                        &metric.get_counter().get_value().to_string(),
                    );
                }
                MetricType::GAUGE => {
                    self.sample(name, "", labels, &number(metric.get_gauge().get_value()));
                }
                MetricType::HISTOGRAM => self.histogram(name, metric),
                // No metric of ours has these types.
                MetricType::SUMMARY | MetricType::UNTYPED => {}
            }
        }
    }

    fn histogram(&mut self, name: &str, metric: &Metric) {
        let (labels, histogram) = (metric.get_label(), metric.get_histogram());
        let pairs = labels.iter().map(|label| (label.name(), label.value()));
        let mut exemplars = Exemplars::find(name, pairs).unwrap_or_default().into_iter();
        for (bound, count) in buckets(histogram) {
            self.labelled(name, "_bucket", labels, Some(("le", &number(bound))));
            self.0.push_str(&count.to_string());
            if let Some(exemplar) = exemplars.next().flatten() {
                self.exemplar(exemplar);
            }
            self.0.push('\n');
        }
        self.sample(name, "_count", labels, &histogram.get_sample_count().to_string());
        self.sample(name, "_sum", labels, &number(histogram.get_sample_sum()));
    }

    fn exemplar(&mut self, Exemplar { trace, value, at }: Exemplar) {
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, milliseconds) = (at.as_secs(), at.subsec_millis());
        let (trace, value) = (trace_id(trace), number(value));
        let text = format!(" # {{trace_id=\"{trace}\"}} {value} {seconds}.{milliseconds:03}");
        self.0.push_str(&text);
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: &[LabelPair], value: &str) {
        self.labelled(name, suffix, labels, None);
        self.line(&[value]);
    }

    /// Writes the name and the labels of a sample.
    fn labelled(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &[LabelPair],
        more: Option<(&str, &str)>,
    ) {
        self.text(&[name, suffix]);
        let labels = labels.iter().map(|label| (label.name(), label.value())).chain(more);
        let labels: Vec<_> =
            labels.map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        if !labels.is_empty() {
            self.text(&["{", &labels.join(","), "}"]);
        }
        self.0.push(' ');
    }

    fn line(&mut self, parts: &[&str]) {
        self.text(parts);
        self.0.push('\n');
    }

    fn text(&mut self, parts: &[&str]) {
        for part in parts {
            self.0.push_str(part);
        }
    }
}

/// The upper bounds and the cumulative counts of a histogram's buckets, up to infinity.
fn buckets(histogram: &Histogram) -> impl Iterator<Item = (f64, u64)> {
    let bounded = histogram.get_bucket().iter();
    let bounded = bounded.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    bounded.chain([(f64::INFINITY, histogram.get_sample_count())])
}

/// A number as in the text of OpenMetrics: with a fraction, so that the bound of a bucket has the
/// same text from every program.
fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    format!("{value:?}")
}

/// A trace id in the form of `traceparent`.
fn trace_id(trace: NonZeroU128) -> String {
    format!("{trace:032x}")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use prometheus::{Counter, Gauge, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

    use super::*;
    use crate::metrics::{Metric as _, TracedHistogramVec};

    fn registry() -> Registry {
        Registry::new()
    }

    #[test]
    fn counters_end_in_total_or_have_no_type() {
        let registry = registry();
        let replies = IntCounter::new("test_replies_total", "Replies \"sent\"").unwrap();
        let seconds = Counter::new("test_busy_seconds_total", "Busy").unwrap();
        let triton =
            IntCounterVec::new(Opts::new("nv_test_success", "Requests"), &["model"]).unwrap();
        replies.inc_by(3);
        seconds.inc_by(0.25);
        triton.with_label_values(&["a\"b\\\n"]).inc();
        registry.register(Box::new(replies)).unwrap();
        registry.register(Box::new(seconds)).unwrap();
        registry.register(Box::new(triton)).unwrap();
        let text = "# TYPE nv_test_success unknown\n\
                    # HELP nv_test_success Requests\n\
                    nv_test_success{model=\"a\\\"b\\\\\\n\"} 1\n\
                    # TYPE test_busy_seconds counter\n\
                    # UNIT test_busy_seconds seconds\n\
                    # HELP test_busy_seconds Busy\n\
                    test_busy_seconds_total 0.25\n\
                    # TYPE test_replies counter\n\
                    # HELP test_replies Replies \\\"sent\\\"\n\
                    test_replies_total 3\n\
                    # EOF\n";
        assert_eq!(encode(&registry.gather()), text);
    }

    #[test]
    fn a_histogram_shows_the_traces_of_its_buckets() {
        let registry = registry();
        let options = HistogramOpts::new("test_shown_seconds", "Time").buckets(vec![0.5, 1.0]);
        let family = TracedHistogramVec::with(options, &["model"]).unwrap();
        registry.register(Box::new(family.clone())).unwrap();
        let histogram = family.with_label_values(&["m"]);
        histogram.observe(0.25, None);
        histogram.observe(4.0, NonZeroU128::new(0xabc));
        let text = encode(&registry.gather());
        let (traced, rest): (Vec<_>, Vec<_>) =
            text.lines().partition(|line| line.contains("trace_id"));
        assert_eq!(
            rest.join("\n"),
            "# TYPE test_shown_seconds histogram\n\
             # UNIT test_shown_seconds seconds\n\
             # HELP test_shown_seconds Time\n\
             test_shown_seconds_bucket{model=\"m\",le=\"0.5\"} 1\n\
             test_shown_seconds_bucket{model=\"m\",le=\"1.0\"} 1\n\
             test_shown_seconds_count{model=\"m\"} 2\n\
             test_shown_seconds_sum{model=\"m\"} 4.25\n\
             # EOF"
        );
        let start = "test_shown_seconds_bucket{model=\"m\",le=\"+Inf\"} 2 # \
                     {trace_id=\"00000000000000000000000000000abc\"} 4.0 ";
        let at = traced[0].strip_prefix(start).unwrap();
        assert!(at.parse::<f64>().unwrap() > 1.7e9, "{at}");
        assert_eq!(traced.len(), 1);
    }

    #[test]
    fn numbers_have_a_fraction_or_are_infinite() {
        let registry = registry();
        let gauge = Gauge::new("test_wait", "Wait").unwrap();
        registry.register(Box::new(gauge.clone())).unwrap();
        for (value, text) in [(3.0, "3.0"), (1e-9, "1e-9"), (f64::NEG_INFINITY, "-Inf")] {
            gauge.set(value);
            assert!(encode(&registry.gather()).contains(&format!("\ntest_wait {text}\n")));
        }
    }
}
