//! Histograms with exemplars: for each bucket, the trace id of the last traced observation. The
//! `prometheus` crate has no exemplars, so they are kept beside its histograms.

use std::{
    collections::BTreeMap,
    num::NonZeroU128,
    sync::{Arc, Weak},
    time::SystemTime,
};

use parking_lot::Mutex;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, Result,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    Metric,
    series::{Labels, remove},
};

/// The exemplars of all histograms of the process. An entry is dropped with the last
/// [`TracedHistogram`] of its series.
static ALL: Mutex<BTreeMap<Series, Weak<Exemplars>>> = Mutex::new(BTreeMap::new());

/// Identifies a series: the name of the histogram and its labels, sorted.
type Series = (String, Vec<(String, String)>);

/// An observation of a traced request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exemplar {
    pub(super) trace: NonZeroU128,
    pub(super) value: f64,
    pub(super) at: SystemTime,
}

/// The exemplars of one series.
#[derive(Debug)]
pub(super) struct Exemplars {
    /// The upper bounds of the buckets, without infinity.
    bounds: Vec<f64>,
    /// The last exemplar of each bucket. The last bucket has no upper bound.
    last: Mutex<Vec<Option<Exemplar>>>,
}

impl Exemplars {
    /// The exemplars of a series, shared by all histograms with the same name and labels.
    fn of(series: Series, bounds: &[f64]) -> Arc<Self> {
        let mut all = ALL.lock();
        if let Some(known) = all.get(&series).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, exemplars| exemplars.strong_count() > 0);
        let last = Mutex::new(vec![None; bounds.len() + 1]);
        let new = Arc::new(Self { bounds: bounds.to_vec(), last });
        all.insert(series, Arc::downgrade(&new));
        new
    }

    /// The exemplars of the series with this name and these labels; `None` if the series has none.
    pub(super) fn find<'a>(
        name: &str,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Option<Vec<Option<Exemplar>>> {
        let series = series(name, labels);
        let exemplars = ALL.lock().get(&series)?.upgrade()?;
        let last = exemplars.last.lock().clone();
        Some(last)
    }

    fn keep(&self, value: f64, trace: NonZeroU128) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        let exemplar = Exemplar { trace, value, at: SystemTime::now() };
        self.last.lock()[bucket] = Some(exemplar);
    }
}

fn series<'a>(name: &str, labels: impl Iterator<Item = (&'a str, &'a str)>) -> Series {
    let mut labels: Vec<_> =
        labels.map(|(label, value)| (label.to_owned(), value.to_owned())).collect();
    labels.sort();
    (name.to_owned(), labels)
}

/// A family of histograms with exemplars.
#[derive(Clone, Debug)]
pub struct TracedHistogramVec {
    histograms: HistogramVec,
    name: String,
    labels: Vec<String>,
    bounds: Vec<f64>,
}

impl TracedHistogramVec {
    /// The histogram with these label values, in the order of the label names. Created if missing.
    ///
    /// # Panics
    ///
    /// If there are more or fewer values than label names.
    pub fn with_label_values(&self, values: &[&str]) -> TracedHistogram {
        let labels = self.labels.iter().map(String::as_str).zip(values.iter().copied());
        TracedHistogram {
            histogram: self.histograms.with_label_values(values),
            exemplars: Exemplars::of(series(&self.name, labels), &self.bounds),
        }
    }
}

impl Collector for TracedHistogramVec {
    fn desc(&self) -> Vec<&Desc> {
        self.histograms.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.histograms.collect()
    }
}

impl Metric for TracedHistogramVec {
    const KIND: &'static str = "histogram";

    fn with(options: HistogramOpts, labels: &[&str]) -> Result<Self> {
        Ok(Self {
            name: options.common_opts.fq_name(),
            labels: labels.iter().map(ToString::to_string).collect(),
            bounds: options.buckets.clone(),
            histograms: HistogramVec::new(options, labels)?,
        })
    }

    fn remove_where(&self, is_gone: &dyn Fn(&Labels<'_>) -> bool) {
        remove(&self.histograms, is_gone);
    }
}

/// A histogram with exemplars.
#[derive(Clone, Debug)]
pub struct TracedHistogram {
    histogram: Histogram,
    exemplars: Arc<Exemplars>,
}

impl TracedHistogram {
    /// Adds an observation. `trace` is the id of the request's trace, if the request is traced.
    pub fn observe(&self, value: f64, trace: Option<NonZeroU128>) {
        self.histogram.observe(value);
        if let Some(trace) = trace {
            self.exemplars.keep(value, trace);
        }
    }

    /// The number of observations.
    pub fn get_sample_count(&self) -> u64 {
        self.histogram.get_sample_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histograms(name: &str) -> TracedHistogramVec {
        let options = HistogramOpts::new(name, "Seconds").buckets(vec![1.0, 2.0]);
        TracedHistogramVec::with(options, &["model", "version"]).unwrap()
    }

    fn kept(name: &str) -> Option<Vec<Option<(u128, f64)>>> {
        let labels = [("version", "1"), ("model", "m")].into_iter();
        let exemplars = Exemplars::find(name, labels)?;
        let pair = |exemplar: Exemplar| (exemplar.trace.get(), exemplar.value);
        Some(exemplars.into_iter().map(|exemplar| exemplar.map(pair)).collect())
    }

    #[test]
    fn each_bucket_keeps_its_last_traced_observation() {
        let trace = NonZeroU128::new;
        let family = histograms("test_kept_seconds");
        let histogram = family.with_label_values(&["m", "1"]);
        assert_eq!(kept("test_kept_seconds"), Some(vec![None, None, None]));
        histogram.observe(0.5, trace(1));
        histogram.observe(1.0, trace(2));
        histogram.observe(0.7, None);
        family.with_label_values(&["m", "1"]).observe(7.0, trace(3));
        family.with_label_values(&["m", "2"]).observe(1.5, trace(4));
        let last = vec![Some((2, 1.0)), None, Some((3, 7.0))];
        assert_eq!(kept("test_kept_seconds"), Some(last));
        assert_eq!(histogram.get_sample_count(), 4);
    }

    #[test]
    fn exemplars_end_with_the_last_histogram_of_their_series() {
        let histogram = histograms("test_ended_seconds").with_label_values(&["m", "1"]);
        let same = histogram.clone();
        drop(histogram);
        assert!(kept("test_ended_seconds").is_some());
        drop(same);
        assert_eq!(kept("test_ended_seconds"), None);
    }
}
