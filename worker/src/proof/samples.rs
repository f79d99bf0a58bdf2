//! The requests that a config gives for the warm-up, as test rows.

use std::fs;

use batchfleet_broker::{Job, ModelSpec, Tensor, TensorSpec};
use bytes::Bytes;
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    draw::job,
    values::{self, Known, RowKind, Style},
};
use crate::{
    config::{WarmupData, WarmupInput, WarmupSample},
    repository::{ModelSource, RepositoryError},
    tensors,
};

/// The folder of a model that holds the data of samples.
const FOLDER: &str = "warmup";

/// Returns one request of one row for each sample of the config that gives every required input.
pub(crate) fn samples(
    source: &ModelSource,
    model: &ModelSpec,
) -> Result<Vec<Job>, RepositoryError> {
    let is_whole = |sample: &&WarmupSample| {
        let mut required = model.inputs.iter().filter(|input| !input.optional);
        required.all(|input| sample.inputs.contains_key(&input.name))
    };
    let whole = source.config.samples.iter().filter(is_whole);
    whole.map(|sample| request(source, model, sample)).collect()
}

fn request(
    source: &ModelSource,
    model: &ModelSpec,
    sample: &WarmupSample,
) -> Result<Job, RepositoryError> {
    let mut inputs = Vec::new();
    for spec in &model.inputs {
        if let Some(input) = sample.inputs.get(&spec.name) {
            inputs.push(tensor(source, model, spec, input).map_err(|problem| {
                let name = &sample.name;
                source.contradiction(format!("model_warmup {name:?} in config.pbtxt: {problem}"))
            })?);
        }
    }
    Ok(job(inputs, 0))
}

/// One row of an input.
fn tensor(
    source: &ModelSource,
    model: &ModelSpec,
    spec: &TensorSpec,
    input: &WarmupInput,
) -> Result<Tensor, String> {
    let mut shape = input.dims.clone();
    if let Some(axis) = spec.row_dimension().filter(|_| model.batches()) {
        shape.insert(axis.min(shape.len()), 1);
    }
    let elements = shape.iter().product();
    let data = match &input.data {
        WarmupData::Zeros => tensors::zeros(spec.datatype, elements),
        WarmupData::Random => {
            let style = Style::all(std::slice::from_ref(spec))[0];
            let random = &mut StdRng::seed_from_u64(0);
            values::tensor(spec, &shape, (RowKind::Unit, style), Known::default(), random).data
        }
        WarmupData::File(file) => {
            let path = source.folder.join(FOLDER).join(file);
            let data = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let holds = if let Some(size) = spec.datatype.size() {
                data.len() as u64 == elements * size as u64
            } else {
                let strings = tensors::strings(&data).collect::<Result<Vec<_>, _>>();
                strings.is_ok_and(|strings| strings.len() as u64 == elements)
            };
            if !holds {
                let (path, datatype) = (path.display(), spec.datatype);
                return Err(format!(
                    "{path} has {} bytes, which is not one row of the shape {shape:?} of {datatype}",
                    data.len()
                ));
            }
            Bytes::from(data)
        }
    };
    Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data })
}
