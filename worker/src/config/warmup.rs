//! `model_warmup`: the requests that a model runs before it serves.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use batchfleet_broker::Datatype;

use super::{message, mistake::Mistake};

/// A request to warm up a model with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WarmupSample {
    /// The sample's name in logs; may be empty.
    pub(crate) name: String,
    /// The rows of the request, each the same; at least 1.
    pub(crate) rows: u32,
    /// How often the sample runs; at least 1.
    pub(crate) count: u32,
    /// The inputs by name.
    pub(crate) inputs: BTreeMap<String, WarmupInput>,
}

/// One row of an input of a [`WarmupSample`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WarmupInput {
    /// The element type.
    pub(crate) datatype: Datatype,
    /// The dimensions, without the batch dimension.
    pub(crate) dims: Vec<u64>,
    /// The values.
    pub(crate) data: WarmupData,
}

/// The values of a [`WarmupInput`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WarmupData {
    /// Zeros, or empty strings.
    Zeros,
    /// Any values.
    Random,
    /// The content of this file in the folder `warmup` of the model, as the tensor's bytes.
    File(String),
}

impl WarmupSample {
    /// The dimensions of the inputs by name.
    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<u64>> {
        self.inputs.iter().map(|(name, input)| (name.clone(), input.dims.clone())).collect()
    }
}

/// A config's samples.
pub(super) fn samples(message: &message::Message) -> Result<Vec<WarmupSample>, Mistake> {
    let sample = |(index, sample): (usize, &message::Warmup)| {
        let mistake = |problem: String| {
            Mistake::at("model_warmup", index, format!("model_warmup {:?}: {problem}", sample.name))
        };
        if sample.inputs.is_empty() {
            return Err(mistake("it has no inputs".to_owned()));
        }
        if message.max_batch_size == Some(0) && sample.batch_size > 1 {
            return Err(mistake(format!(
                "its batch_size is {}, but max_batch_size 0 allows no batches",
                sample.batch_size
            )));
        }
        let input = |(name, input): (&String, &message::WarmupInput)| {
            let input =
                input.read().map_err(|problem| mistake(format!("its input {name:?} {problem}")))?;
            Ok((name.clone(), input))
        };
        Ok(WarmupSample {
            name: sample.name.clone(),
            rows: sample.batch_size.max(1),
            count: sample.count.max(1),
            inputs: sample.inputs.iter().map(input).collect::<Result<_, _>>()?,
        })
    };
    message.model_warmup.iter().enumerate().map(sample).collect()
}

impl message::WarmupInput {
    fn read(&self) -> Result<WarmupInput, String> {
        let datatype = self.data_type.datatype().ok_or("has no data_type")?;
        let dim = |&dim: &i64| {
            u64::try_from(dim).map_err(|_| {
                format!("has dims {:?}: the dimensions of a sample are not open", self.dims)
            })
        };
        let dims = self.dims.iter().map(dim).collect::<Result<_, _>>()?;
        let data = match (self.zero_data, self.random_data, &self.input_data_file) {
            (Some(_), None, None) => WarmupData::Zeros,
            (None, Some(_), None) => WarmupData::Random,
            (None, None, Some(file)) => {
                if !is_below(file) {
                    return Err(format!(
                        "has the input_data_file {file:?}: give the name of a file in the model's \
                         folder warmup"
                    ));
                }
                WarmupData::File(file.clone())
            }
            (None, None, None) => {
                return Err("has none of zero_data, random_data and input_data_file".to_owned());
            }
            _ => {
                return Err(
                    "has more than one of zero_data, random_data and input_data_file".to_owned()
                );
            }
        };
        Ok(WarmupInput { datatype, dims, data })
    }
}

/// Whether a path names a file below the folder that it is relative to.
fn is_below(path: &str) -> bool {
    let mut parts = Path::new(path).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}
