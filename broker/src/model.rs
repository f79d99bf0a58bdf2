//! Models, and the announcements of workers, from which gateways learn the models and their shapes.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::{Batching, Datatype, QueueName, QueuePolicy, WorkerId};

/// One input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The name in the model.
    pub name: String,
    /// The element type.
    pub datatype: Datatype,
    /// Dimensions, including the batch dimension; -1 where the model accepts any size.
    pub shape: Vec<i64>,
    /// Whether a request may leave out this input; the model then uses its own value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// The dimension that counts the rows of a batch. `None` if the tensor has no such dimension:
    /// an input holds one value for all rows, so that only requests with the same value are joined.
    /// Without meaning if the model does not batch.
    #[serde(default = "first_dimension", skip_serializing_if = "is_first_dimension")]
    pub row_axis: Option<u32>,
}

impl TensorSpec {
    /// A required tensor whose first dimension counts the rows of a batch.
    pub fn new(name: impl Into<String>, datatype: Datatype, shape: impl Into<Vec<i64>>) -> Self {
        let (name, shape) = (name.into(), shape.into());
        Self { name, datatype, shape, optional: false, row_axis: first_dimension() }
    }

    /// The dimension that counts the rows of a batch; `None` if there is none, as in a scalar.
    /// Without meaning if the model does not batch.
    pub fn row_dimension(&self) -> Option<usize> {
        let axis = usize::try_from(self.row_axis?).ok()?;
        (axis < self.shape.len()).then_some(axis)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the default that serde asks for")]
const fn first_dimension() -> Option<u32> {
    Some(0)
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_first_dimension(axis: &Option<u32>) -> bool {
    *axis == first_dimension()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One version of a model, with everything that a gateway needs to check requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Model and version.
    pub queue: QueueName,
    /// The protocol's platform name, such as `onnxruntime_onnx`.
    pub platform: String,
    /// Triton's backend name, such as `onnxruntime`.
    pub backend: String,
    /// The maximum rows per request. `None` (0 in JSON) if the model has no batch dimension:
    /// requests are never joined then, and shapes are used as they are.
    #[serde(with = "zero_for_none")]
    pub max_batch: Option<NonZeroU32>,
    /// Inputs, in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in the model's order.
    pub outputs: Vec<TensorSpec>,
}

impl ModelSpec {
    /// Whether requests are joined along the dimensions of their inputs that count rows.
    pub const fn batches(&self) -> bool {
        self.max_batch.is_some()
    }

    /// The maximum rows that the model runs for one request; 1 if the model does not batch.
    pub fn max_rows(&self) -> u32 {
        self.max_batch.map_or(1, NonZeroU32::get)
    }
}

/// Serializes `None` as the number 0.
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

/// The announcement of a worker that is ready to serve a model, renewed while the worker lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Announcement {
    /// The worker's id, in the format of [`WorkerId`].
    pub worker: String,
    /// The model that the worker serves.
    pub model: ModelSpec,
    /// Measured capacity in rows per second within the latency target; 0 before the first
    /// measurement.
    #[serde(default)]
    pub capacity: f64,
    /// N, the maximum rows per batch; 0 before the worker has chosen N.
    #[serde(default)]
    pub batch_limit: u32,
    /// How the worker chooses N; `None` from programs that do not announce it.
    #[serde(default)]
    pub batching: Option<Batching>,
    /// The machine or pod of the worker, which the controller uses to find the worker; empty from
    /// programs that do not announce it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Whether the worker records traces, and can therefore decode a job that contains a trace.
    #[serde(default)]
    pub tracing: bool,
    /// Whether the worker can decode a job that asks for classes, and answer it.
    #[serde(default)]
    pub classification: bool,
    /// Whether the worker fetches inputs that are [offered](crate::Offer), and can therefore decode a
    /// job without them.
    #[serde(default)]
    pub fetches: bool,
    /// The model's configuration in the JSON form of Triton's `ModelConfig`, with the values in
    /// effect; `None` from programs that do not announce it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
    /// How long requests of the model may wait, and how many.
    #[serde(default, skip_serializing_if = "is_default")]
    pub queue_policy: QueuePolicy,
    /// What users of the model should know about how it is served, as sentences: why it does not
    /// batch, which settings of its config have no effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Other models of the worker's repository that it cannot serve; each is named in the
    /// announcement of one model only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unavailable: Vec<UnavailableModel>,
}

/// A model that a worker found in its repository but cannot serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnavailableModel {
    /// The model.
    pub model: String,
    /// The version; `None` if the worker could not even choose a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Why the worker cannot serve the model, as a sentence for users.
    pub reason: String,
}

/// A worker as seen by an observer.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedWorker {
    /// The last announcement of the worker.
    pub announcement: Announcement,
    /// Whether the last renewal is younger than [`LIVENESS`](crate::roles::LIVENESS). A dead worker
    /// stays known for an hour, so that requests for its model are answered with "no worker"
    /// instead of "no such model".
    pub live: bool,
}

impl ObservedWorker {
    /// A live worker.
    pub const fn live(announcement: Announcement) -> Self {
        Self { announcement, live: true }
    }

    /// A dead worker.
    pub const fn dead(announcement: Announcement) -> Self {
        Self { announcement, live: false }
    }

    /// Whether the worker is alive and serves `queue`.
    pub fn serves(&self, queue: &QueueName) -> bool {
        self.live && self.announcement.model.queue == *queue
    }
}

/// A controller's promise to start a worker when a request arrives for a model without workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    /// The expected announcement of the worker; `worker` names the controller.
    pub expected: Announcement,
    /// Whether the promise was renewed within [`PROMISED`](crate::roles::PROMISED).
    pub holds: bool,
    /// Whether the controller has [retracted](crate::Controller::retract) the queue within
    /// [`PROMISED`](crate::roles::PROMISED). A retracted promise does not hold.
    pub retracted: bool,
}

/// All workers and promises of the last hour, read at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetSnapshot {
    /// Live workers, and those that died within the hour.
    pub workers: Vec<ObservedWorker>,
    /// Promises, at most one per queue.
    pub promises: Vec<Promise>,
}

impl Announcement {
    /// Announces that `worker` serves `model` and has measured nothing yet.
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
            classification: false,
            fetches: false,
            config: None,
            queue_policy: QueuePolicy::default(),
            notes: Vec::new(),
            unavailable: Vec::new(),
        }
    }

    /// Whether gateways need not read this announcement after `other`: nothing differs but
    /// measurements, and the capacity by less than 5 %.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let is_near = (self.capacity - other.capacity).abs() <= 0.05 * self.capacity.abs();
        is_near && self.without_measurements() == other.without_measurements()
    }

    fn without_measurements(&self) -> Self {
        let decided = |batching: &Batching| Batching {
            n: batching.n,
            bound: batching.bound.clone(),
            full_load_n: batching.full_load_n,
            overloaded: batching.overloaded,
            slo_ms: batching.slo_ms,
            workers: batching.workers,
            epoch: batching.epoch,
            fixed_sizes: batching.fixed_sizes,
            ..Batching::default()
        };
        let batching = self.batching.as_ref().map(decided);
        Self { capacity: 0.0, batching, ..self.clone() }
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
