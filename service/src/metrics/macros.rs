//! The `metrics!` macro.

/// Defines a struct of metrics and implements [`MetricGroup`](crate::metrics::MetricGroup) for it.
///
/// Each field is one metric. Its whole doc comment is the help text that `/metrics` and
/// docs/reference/metrics.md show, less the final period; remarks for developers are plain comments. The
/// `#[metric]` attribute holds the full name and the unit, then `labels` (an array of names) if the
/// type ends in `Vec`, then `buckets` (a constant array of upper bounds) if the type is a
/// histogram. A field without the attribute is a nested
/// [`MetricGroup`](crate::metrics::MetricGroup).
///
/// The types are those of the `prometheus` crate, and
/// [`TracedHistogramVec`](crate::metrics::TracedHistogramVec) for histograms with exemplars. An `IntCounter` only rises, an `IntGauge` is an
/// integer that rises and falls, and a `Gauge` is any number. A type that ends in `Vec` has one
/// series for each combination of label values. Every other type has one series, which starts at 0.
///
/// ```
/// use batchfleet_service::metrics::{MetricGroup, doubling};
/// use prometheus::{HistogramVec, IntCounter, IntGaugeVec, Registry};
///
/// /// 1 ms to 512 ms.
/// const SECONDS: [f64; 10] = doubling(0.001);
/// const QUEUE: [&str; 2] = ["model", "version"];
///
/// batchfleet_service::metrics! {
///     /// Every metric of this example.
///     #[derive(Clone, Debug)]
///     pub(crate) struct ExampleMetrics {
///         /// Replies whose request had already ended.
///         #[metric("example_unclaimed_replies_total", unit = "replies")]
///         pub(crate) unclaimed_replies: IntCounter,
///         /// Jobs that wait in a queue.
///         #[metric("example_queue_depth", unit = "jobs", labels = QUEUE)]
///         queue_depth: IntGaugeVec,
///         /// Metrics of batches.
///         batches: BatchMetrics,
///     }
/// }
///
/// batchfleet_service::metrics! {
///     /// Metrics of batches.
///     #[derive(Clone, Debug)]
///     struct BatchMetrics {
///         /// Time from the claim of a batch until its replies are sent.
///         #[metric("example_batch_seconds", unit = "seconds", labels = ["model"], buckets = SECONDS)]
///         seconds: HistogramVec,
///     }
/// }
///
/// let metrics = ExampleMetrics::register(&Registry::new())?;
/// metrics.unclaimed_replies.inc();
/// metrics.queue_depth.with_label_values(&["digits", "1"]).set(3);
/// metrics.batches.seconds.with_label_values(&["digits"]).observe(0.02);
///
/// let described = ExampleMetrics::describe()?;
/// assert_eq!(described[0].family.help, "Replies whose request had already ended");
/// # Ok::<_, prometheus::Error>(())
/// ```
#[macro_export]
macro_rules! metrics {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $Group:ident {
            $(
                $(#[doc = $help:literal])+
                $(#[metric(
                    $name:literal,
                    unit = $unit:literal
                    $(, labels = $labels:expr)?
                    $(, buckets = $buckets:expr)?
                )])?
                $field_visibility:vis $field:ident: $Metric:ty
            ),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $Group {
            $(
                $(#[doc = $help])+
                $field_visibility $field: $Metric,
            )+
        }

        impl $crate::metrics::MetricGroup for $Group {
            fn make(families: &mut $crate::metrics::Families) -> $crate::metrics::Result<Self> {
                Ok(Self {
                    $(
                        $field: $crate::metrics!(
                            @make families, $Metric, concat!($($help),+)
                            $(,
                                $name, $unit,
                                $crate::metrics!(@slice $($labels)?),
                                $crate::metrics!(@slice $($buckets)?)
                            )?
                        ),
                    )+
                })
            }

            fn remove_series(&self, is_gone: &dyn Fn(&$crate::metrics::Labels<'_>) -> bool) {
                $($crate::metrics!(@remove &self.$field, is_gone $(, $name)?);)+
            }
        }
    };
    (@slice) => {
        &[]
    };
    (@slice $array:expr) => {
        &$array
    };
    (@remove $group:expr, $is_gone:ident) => {
        $crate::metrics::MetricGroup::remove_series($group, $is_gone)
    };
    (@remove $metric:expr, $is_gone:ident, $name:expr) => {
        $crate::metrics::Metric::remove_where($metric, $is_gone)
    };
    (@make $families:ident, $Group:ty, $help:expr) => {
        <$Group as $crate::metrics::MetricGroup>::make($families)?
    };
    (
        @make $families:ident, $Metric:ty, $help:expr,
        $name:expr, $unit:expr, $labels:expr, $buckets:expr
    ) => {{
        let help = $crate::metrics::help($help);
        let family =
            $crate::metrics::Family { name: $name, unit: $unit, labels: $labels, help };
        $families.add::<$Metric>(family, $buckets)?
    }};
}
