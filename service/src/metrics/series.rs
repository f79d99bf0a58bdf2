//! Removes series whose labels name what has gone.

use std::collections::HashMap;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};

/// The labels of a series: names and values.
pub type Labels<'a> = HashMap<&'a str, &'a str>;

/// Removes the series whose labels satisfy `is_gone`.
pub(super) fn remove<B: MetricVecBuilder>(
    family: &MetricVec<B>,
    is_gone: &dyn Fn(&Labels<'_>) -> bool,
) where
    MetricVec<B>: Collector,
{
    for collected in family.collect() {
        for series in collected.get_metric() {
            let labels = series.get_label();
            let labels = labels.iter().map(|label| (label.name(), label.value())).collect();
            if is_gone(&labels) {
                // Fails only if the series does not exist.
                family.remove(&labels).ok();
            }
        }
    }
}
