//! What workers tell about the models they serve; gateways learn models and shapes from it.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::{Batching, Datatype, QueueName, WorkerId};

/// One input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Its name in the model.
    pub name: String,
    /// Its element type.
    pub datatype: Datatype,
    /// Its dimensions, the batch dimension included; -1 where any size will do.
    pub shape: Vec<i64>,
}

/// One version of a model: what a gateway must know to check a request against it.
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

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
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

/// A worker's word that it is ready to serve a model; renewed while it lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Announcement {
    /// Who serves, as [`WorkerId`] prints.
    pub worker: String,
    /// What is served.
    pub model: ModelSpec,
    /// Rows per second it can do within its latency target, as it measured; 0 before it has.
    #[serde(default)]
    pub capacity: f64,
    /// The most rows it runs together: its N; 0 before it knows.
    #[serde(default)]
    pub batch_limit: u32,
    /// How it chooses N; `None` from those that do not say.
    #[serde(default)]
    pub batching: Option<Batching>,
    /// The machine or pod it runs on, for whoever starts and ends workers; empty from those that do
    /// not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Whether it records traces, and so reads what trace a job belongs to.
    #[serde(default)]
    pub tracing: bool,
    /// Whether the worker still lives: its latest renewal is younger than the liveness period. A
    /// model whose every worker is gone stays known, so that callers hear "no worker", not "no
    /// such model".
    #[serde(skip)]
    pub live: bool,
    /// Not a worker's word but a controller's: nobody serves the model now, and somebody will as
    /// soon as it is asked for.
    #[serde(skip)]
    pub promised: bool,
}

impl Announcement {
    /// `worker` serves `model`; how fast, it has yet to say.
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
            live: true,
            promised: false,
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
