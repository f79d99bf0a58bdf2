//! How a model is served under its config: the tensors that clients see, and whether requests are
//! joined. Pure.

use std::{num::NonZeroU32, time::Duration};

use batchfleet_broker::{ModelSpec, QueueName, TensorSpec};
use serde_json::Value;

use super::{
    fit::ModelOutput,
    message::{
        All, DynamicBatching, Input, InstanceGroup, InstanceKind, Latest, Output, Specific,
        Versions,
    },
    model_config::{ModelConfig, VersionPolicy},
};
use crate::{layout::Layout, reshape::Reshapes};

/// What requests of a model that is served by ONNX Runtime look like.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// The model as clients see it.
    pub(crate) spec: ModelSpec,
    /// How the tensors of clients and those of the model differ in shape.
    pub(crate) reshapes: Reshapes,
}

impl ModelConfig {
    /// How an ONNX model with these tensors is served. Requests may have up to `max_batch` rows if
    /// the config does not limit them. The error is a sentence about a contradiction.
    pub(crate) fn served(
        &self,
        queue: QueueName,
        inputs: Vec<TensorSpec>,
        outputs: Vec<ModelOutput>,
        max_batch: u32,
    ) -> Result<Served, String> {
        let fitted = self.fit(inputs, outputs)?;
        let can_batch = Layout::can_batch(&fitted.inputs, &fitted.outputs);
        let max_batch = match self.max_batch {
            Some(rows) if rows > 0 && !can_batch => {
                let obstacle = obstacle(&fitted.inputs, &fitted.outputs);
                return Err(format!(
                    "config.pbtxt says max_batch_size {rows}, but {obstacle}; max_batch_size: 0 \
                     serves the model without batching, and the parameter batch_axis:NAME declares \
                     another dimension, or none, for the rows of a tensor"
                ));
            }
            Some(rows) => rows,
            None if can_batch => max_batch,
            None => 0,
        };
        let spec = ModelSpec {
            queue,
            platform: "onnxruntime_onnx".to_owned(),
            backend: "onnxruntime".to_owned(),
            max_batch: NonZeroU32::new(max_batch),
            inputs: fitted.inputs,
            outputs: fitted.outputs,
        };
        Ok(Served { spec, reshapes: fitted.reshapes })
    }

    /// The sentences about this config for users of the model that is served as `spec`.
    pub(crate) fn notes(&self, spec: &ModelSpec) -> Vec<String> {
        let single = match self.max_batch {
            _ if spec.batches() => None,
            Some(_) => Some("max_batch_size is 0 in config.pbtxt".to_owned()),
            None => Some(obstacle(&spec.inputs, &spec.outputs)),
        };
        let single =
            single.map(|why| format!("each request runs in a batch of its own, because {why}"));
        single.into_iter().chain(self.ignored_notes.iter().cloned()).collect()
    }

    /// The config in the JSON form of Triton's `ModelConfig`, with the values in effect for the
    /// model that is served as `spec`.
    pub(crate) fn in_effect(&self, spec: &ModelSpec, linger: Duration) -> Value {
        let mut message = self.message.clone();
        message.name.clone_from(&spec.queue.model);
        message.platform.clone_from(&spec.platform);
        message.backend.clone_from(&spec.backend);
        message.default_model_filename.clone_from(&self.file);
        message.version_policy = Some(policy(&self.versions));
        let rows = spec.max_batch.map_or(0, NonZeroU32::get);
        message.max_batch_size = Some(i32::try_from(rows).unwrap_or(i32::MAX));
        message.input = spec.inputs.iter().map(|tensor| self.input(spec, tensor)).collect();
        message.output = spec.outputs.iter().map(|tensor| self.output(spec, tensor)).collect();
        if spec.batches() {
            let batching = message.dynamic_batching.get_or_insert_with(DynamicBatching::default);
            let delay = u64::try_from(linger.as_micros()).unwrap_or(u64::MAX);
            batching.max_queue_delay_microseconds = delay;
        } else {
            message.dynamic_batching = None;
        }
        if message.instance_group.is_empty() {
            let (name, kind) = (format!("{}_0", spec.queue.model), InstanceKind::Auto);
            message.instance_group =
                vec![InstanceGroup { name, kind, count: 1, ..InstanceGroup::default() }];
        }
        // The conversion of these structs into JSON cannot fail.
        serde_json::to_value(message).unwrap_or_default()
    }

    fn input(&self, spec: &ModelSpec, tensor: &TensorSpec) -> Input {
        let written = self.message.input.iter().find(|input| input.name == tensor.name);
        Input {
            name: tensor.name.clone(),
            data_type: tensor.datatype.into(),
            dims: dims(spec, tensor),
            optional: tensor.optional,
            ..written.cloned().unwrap_or_default()
        }
    }

    fn output(&self, spec: &ModelSpec, tensor: &TensorSpec) -> Output {
        let written = self.message.output.iter().find(|output| output.name == tensor.name);
        Output {
            name: tensor.name.clone(),
            data_type: tensor.datatype.into(),
            dims: dims(spec, tensor),
            ..written.cloned().unwrap_or_default()
        }
    }
}

/// The first reason why a model with these tensors cannot batch, as a part of a sentence.
fn obstacle(inputs: &[TensorSpec], outputs: &[TensorSpec]) -> String {
    let inputs = inputs.iter().map(|tensor| ("input", tensor));
    let all = inputs.chain(outputs.iter().map(|tensor| ("output", tensor)));
    let is_open = |tensor: &TensorSpec| match tensor.row_axis {
        None => true,
        Some(axis) => tensor.shape.get(axis as usize) == Some(&-1),
    };
    let Some((kind, TensorSpec { name, shape, row_axis, .. })) =
        all.into_iter().find(|(_, tensor)| !is_open(tensor))
    else {
        return "no input has a dimension that counts rows".to_owned();
    };
    let axis = match row_axis {
        Some(0) | None => "first dimension".to_owned(),
        Some(axis) => format!("dimension {axis}"),
    };
    format!("{kind} {name:?} has the shape {shape:?}, without a {axis} of any size for the rows")
}

/// The dimensions of a tensor without the dimension that counts rows.
fn dims(spec: &ModelSpec, tensor: &TensorSpec) -> Vec<i64> {
    let mut dims = tensor.shape.clone();
    let axis = tensor.row_axis.filter(|_| spec.batches()).map(|axis| axis as usize);
    if let Some(axis) = axis.filter(|&axis| axis < dims.len()) {
        dims.remove(axis);
    }
    dims
}

fn policy(versions: &VersionPolicy) -> Versions {
    let none = Versions::default();
    match versions {
        VersionPolicy::Latest(count) => {
            let num_versions = u32::try_from(*count).ok();
            Versions { latest: Some(Latest { num_versions }), ..none }
        }
        VersionPolicy::All => Versions { all: Some(All {}), ..none },
        VersionPolicy::Specific(versions) => {
            let number = |&version: &u64| i64::try_from(version).unwrap_or(i64::MAX);
            let versions = versions.iter().map(number).collect();
            Versions { specific: Some(Specific { versions }), ..none }
        }
    }
}

#[cfg(test)]
mod tests;
