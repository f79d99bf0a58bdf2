//! The statistics extension: counts and durations of each model, in Triton's form.
//!
//! Triton's `perf_analyzer` reads every field, and fails if a field is missing.

use std::time::Duration;

use batchfleet_broker::QueueName;
use serde::{Serialize, Serializer};

/// The number of events, and their total duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    /// The number of events.
    pub count: u64,
    /// The sum of the durations.
    #[serde(rename = "ns", serialize_with = "nanoseconds")]
    pub time: Duration,
}

impl Total {
    /// Counts an event that took `time`.
    pub fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time = self.time.saturating_add(time);
    }
}

/// The durations of requests to a model, by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InferStatistics {
    /// Requests answered with outputs, end to end.
    pub success: Total,
    /// Requests answered with an error, end to end.
    pub fail: Total,
    /// Time in the queue and until the batch began.
    pub queue: Total,
    /// Time to join the inputs of the batch.
    pub compute_input: Total,
    /// Time to run the model.
    pub compute_infer: Total,
    /// Time to split the outputs of the batch.
    pub compute_output: Total,
    /// Responses from a cache; always 0, there is no cache.
    pub cache_hit: Total,
    /// Lookups that missed the cache; always 0.
    pub cache_miss: Total,
}

/// The durations of batches of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BatchStatistics {
    /// The size, in rows.
    pub batch_size: u64,
    /// Time to join the inputs.
    pub compute_input: Total,
    /// Time to run the model.
    pub compute_infer: Total,
    /// Time to split the outputs.
    pub compute_output: Total,
}

/// All counts and durations of one model version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelStatistics {
    /// When a request was last answered with outputs, in milliseconds since 1970; 0 for never.
    pub last_inference: u64,
    /// Rows answered with outputs.
    pub inference_count: u64,
    /// Batches that contained these rows.
    pub execution_count: u64,
    /// The number and durations of requests, by stage.
    pub inference: InferStatistics,
    /// Batches, by size.
    pub batches: Vec<BatchStatistics>,
}

/// The response to `GET /v2/models/stats` and `GET /v2/models/{model}/stats`.
#[derive(Clone, Debug, Serialize)]
pub struct Statistics<'a> {
    model_stats: Vec<Entry<'a>>,
}

#[derive(Clone, Debug, Serialize)]
struct Entry<'a> {
    name: &'a str,
    version: String,
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: InferStatistics,
    batch_stats: &'a [BatchStatistics],
    memory_usage: [(); 0],
    response_stats: NoResponses,
}

/// The statistics of the several responses to a request, by their number: an empty object, as from
/// Triton for a model that answers each request once.
#[derive(Clone, Copy, Debug, Serialize)]
struct NoResponses {}

/// The response with the statistics of `models`.
pub fn report<'a>(
    models: impl IntoIterator<Item = (&'a QueueName, &'a ModelStatistics)>,
) -> Statistics<'a> {
    let entry = |(queue, model): (&'a QueueName, &'a ModelStatistics)| Entry {
        name: &queue.model,
        version: queue.version.to_string(),
        last_inference: model.last_inference,
        inference_count: model.inference_count,
        execution_count: model.execution_count,
        inference_stats: model.inference,
        batch_stats: &model.batches,
        // As from Triton for a backend that does not report its memory.
        memory_usage: [],
        response_stats: NoResponses {},
    };
    Statistics { model_stats: models.into_iter().map(entry).collect() }
}

fn nanoseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_perf_analyzer_reads_is_present() {
        let mut model =
            ModelStatistics { inference_count: 5, execution_count: 2, ..Default::default() };
        model.inference.success.add(Duration::from_micros(3));
        model.batches.push(BatchStatistics { batch_size: 4, ..Default::default() });
        let queue = QueueName::new("m", 1);
        let report = serde_json::to_value(report([(&queue, &model)])).unwrap();
        let entry = &report["model_stats"][0];
        assert_eq!(entry["version"], "1");
        assert!(entry["last_inference"].is_u64());
        assert_eq!(entry["memory_usage"], serde_json::json!([]));
        assert_eq!(entry["response_stats"], serde_json::json!({}));
        for part in [
            "success",
            "fail",
            "queue",
            "compute_input",
            "compute_infer",
            "compute_output",
            "cache_hit",
            "cache_miss",
        ] {
            let total = &entry["inference_stats"][part];
            assert!(total["count"].is_u64() && total["ns"].is_u64(), "{part}");
        }
        assert_eq!(entry["inference_stats"]["success"]["ns"], 3_000);
        for part in ["compute_input", "compute_infer", "compute_output"] {
            assert!(entry["batch_stats"][0][part]["ns"].is_u64(), "{part}");
        }
    }
}
