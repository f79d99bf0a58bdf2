//! Models, and what workers announce about them; gateways learn models and shapes from it.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::{Batching, Datatype, QueueName, WorkerId};

/// One input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The name in the model.
    pub name: String,
    /// The element type.
    pub datatype: Datatype,
    /// The dimensions with the batch dimension; -1 where the model takes any size.
    pub shape: Vec<i64>,
}

/// One version of a model, as a gateway needs it to check requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Model and version.
    pub queue: QueueName,
    /// The protocol's platform name, such as `onnxruntime_onnx`.
    pub platform: String,
    /// Triton's backend name, such as `onnxruntime`.
    pub backend: String,
    /// The most rows of one request. `None` (in JSON 0): the model has no batch dimension, so
    /// requests are never joined and shapes are taken as they are.
    #[serde(with = "zero_for_none")]
    pub max_batch: Option<NonZeroU32>,
    /// Inputs, in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in the model's order.
    pub outputs: Vec<TensorSpec>,
}

impl ModelSpec {
    /// Whether requests are joined along their first dimension.
    pub const fn batches(&self) -> bool {
        self.max_batch.is_some()
    }

    /// The most rows that the model runs for one request: 1 if it does not batch.
    pub fn max_rows(&self) -> u32 {
        self.max_batch.map_or(1, NonZeroU32::get)
    }
}

/// `None` as the number 0.
mod zero_for_none {
    use std::num::NonZeroU32;

    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde asks for"
    )]
    pub(super) fn serialize<S: Serializer>(
        number: &Option<NonZeroU32>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(number.map_or(0, NonZeroU32::get))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<NonZeroU32>, D::Error> {
        u32::deserialize(deserializer).map(NonZeroU32::new)
    }
}

/// What a worker that is ready to serve a model announces, renewed while the worker lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Announcement {
    /// The worker, as [`WorkerId`] prints.
    pub worker: String,
    /// The model it serves.
    pub model: ModelSpec,
    /// Rows per second within the latency target, as measured; 0 before the first measurement.
    #[serde(default)]
    pub capacity: f64,
    /// N, the most rows in a batch; 0 before the worker has chosen it.
    #[serde(default)]
    pub batch_limit: u32,
    /// How the worker chooses N; `None` from programs that do not announce it.
    #[serde(default)]
    pub batching: Option<Batching>,
    /// The machine or pod of the worker, by which the controller finds it; empty from programs that
    /// do not announce it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Whether the worker records traces, and so can read a job that names its trace.
    #[serde(default)]
    pub tracing: bool,
}

/// A worker as an observer sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedWorker {
    /// Its last announcement.
    pub announcement: Announcement,
    /// Whether the last renewal is younger than [`LIVENESS`](crate::roles::LIVENESS). A dead worker
    /// stays known for an hour, so that its model gets the answer "no worker" and not "no such
    /// model".
    pub live: bool,
}

impl ObservedWorker {
    /// A worker that lives.
    pub const fn live(announcement: Announcement) -> Self {
        Self { announcement, live: true }
    }

    /// A worker that is dead.
    pub const fn dead(announcement: Announcement) -> Self {
        Self { announcement, live: false }
    }

    /// Whether the worker lives and serves `queue`.
    pub fn serves(&self, queue: &QueueName) -> bool {
        self.live && self.announcement.model.queue == *queue
    }
}

/// A controller's promise: no worker serves the model, but one starts when a request arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    /// What that worker is expected to announce; `worker` names the controller.
    pub expected: Announcement,
    /// Whether the promise was renewed within [`PROMISED`](crate::roles::PROMISED).
    pub holds: bool,
}

/// All workers and promises of the last hour, read at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetSnapshot {
    /// Live workers, and those that died within the hour.
    pub workers: Vec<ObservedWorker>,
    /// Promises, one per queue at most.
    pub promises: Vec<Promise>,
}

impl Announcement {
    /// `worker` serves `model` and has measured nothing yet.
    pub fn new(worker: WorkerId, model: ModelSpec) -> Self {
        let worker = worker.to_string();
        Self {
            worker,
            model,
            capacity: 0.0,
            batch_limit: 0,
            batching: None,
            host: String::new(),
            tracing: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_limit_is_a_number_in_json_and_0_where_there_is_none() {
        for (max_batch, number) in [(None, 0), (NonZeroU32::new(8), 8)] {
            let spec = ModelSpec {
                queue: QueueName::new("m", 1),
                platform: String::new(),
                backend: String::new(),
                max_batch,
                inputs: Vec::new(),
                outputs: Vec::new(),
            };
            let json = serde_json::to_value(&spec).unwrap();
            assert_eq!(json["max_batch"], number);
            assert_eq!(serde_json::from_value::<ModelSpec>(json).unwrap(), spec);
            assert_eq!((spec.batches(), spec.max_rows()), (number > 0, number.max(1)));
        }
    }
}
