//! Engines on ONNX Runtime. Only this module uses the `ort` crate.

mod convert;
mod load_error;
mod log;
mod options;
mod runtime;

use std::{borrow::Cow, path::PathBuf, sync::Arc};

use batchfleet_broker::{ModelSpec, Tensor, TensorSpec};
use ort::{
    ErrorCode,
    session::{NoSelectedOutputs, RunOptions, Session, SessionInputValue},
    value::Outlet,
};

pub use self::runtime::ModelLoadError;
pub(crate) use self::runtime::Runtime;
use self::{
    convert::{default_spec, from_ort, tensor_spec, to_ort},
    options::SessionOptions,
};
use super::{Engine, EngineError, RunError, RunErrorCode};
use crate::{
    config::{ModelConfig, ModelOutput, Served},
    instances::Instance,
    repository::{ModelBytes, ModelSource},
    reshape::Reshapes,
};

/// Option of a run: the devices that return unused memory after the run.
const SHRINKAGE: &str = "memory.enable_memory_arena_shrinkage";

/// Maximum number of inputs with a default value that requests may give without a config.
const MOST_DEFAULTS: usize = 16;

/// A loaded ONNX model.
pub(crate) struct Onnx {
    // Dropped before the data that it uses.
    session: Session,
    /// The external data of the model.
    _data: Vec<Arc<[u8]>>,
    run_options: RunOptions<NoSelectedOutputs>,
    spec: ModelSpec,
    reshapes: Reshapes,
    provider: &'static str,
    notes: Vec<String>,
}

impl Onnx {
    /// Loads the model and reads the specs of its inputs and outputs.
    ///
    /// The model batches if its tensors and its config allow batching.
    pub(crate) fn load(
        source: &ModelSource,
        bytes: &ModelBytes,
        runtime: &Runtime,
        instance: Instance,
        max_batch: u32,
    ) -> Result<Self, ModelLoadError> {
        let model = |problem| ModelLoadError::Model { model: source.queue.to_string(), problem };
        let Instance { provider, threads } = instance;
        let folders = source.folders();
        let folders = folders.each_ref().map(PathBuf::as_path);
        let options = SessionOptions::read(&source.config, provider, threads, &folders);
        let options = options.map_err(model)?;
        for note in &options.notes {
            tracing::warn!(model = %source.queue, note, "config setting has no effect");
        }
        let session = runtime.session(source, bytes, &options)?;
        let failed = |error: ort::Error| model(error.to_string());
        let mut run_options = RunOptions::new().map_err(failed)?;
        if let Some(devices) = &options.shrinkage {
            run_options.set(SHRINKAGE, devices).map_err(failed)?;
        }
        let inputs = session.inputs().iter().map(tensor_spec).collect::<Result<Vec<_>, _>>();
        let mut inputs = inputs.map_err(model)?;
        inputs.extend(defaults(&session, &source.config));
        let output = |outlet: &Outlet| ModelOutput {
            name: outlet.name().to_owned(),
            spec: tensor_spec(outlet),
        };
        let outputs = session.outputs().iter().map(output).collect();
        let served = source.config.served(source.queue.clone(), inputs, outputs, max_batch);
        let Served { spec, reshapes } = served.map_err(model)?;
        let data = bytes.external.iter().map(|(_, data)| data.clone()).collect();
        let (provider, notes) = (provider.name(), options.notes);
        Ok(Self { session, _data: data, run_options, spec, reshapes, provider, notes })
    }
}

/// The inputs for which the model has default values, if there are few or if the config lists them.
/// Some programs export all weights of a model as inputs with a default.
fn defaults(session: &Session, config: &ModelConfig) -> Vec<TensorSpec> {
    let mut defaults: Vec<_> =
        session.overridable_initializers().iter().filter_map(default_spec).collect();
    if defaults.len() > MOST_DEFAULTS {
        let is_listed =
            |spec: &TensorSpec| config.inputs.iter().any(|input| input.name == spec.name);
        defaults.retain(is_listed);
    }
    defaults
}

impl Engine for Onnx {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn serve_singly(&mut self) {
        self.spec.max_batch = None;
    }

    fn provider(&self) -> &'static str {
        self.provider
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn run(&mut self, mut inputs: Vec<Tensor>, _rows: u32) -> Result<Vec<Tensor>, EngineError> {
        let Self { session, run_options, spec, reshapes, .. } = self;
        reshapes.to_model(&mut inputs).map_err(EngineError::failed)?;
        let values = inputs
            .iter()
            .map(|tensor| Ok((Cow::from(tensor.name.as_str()), to_ort(tensor)?)))
            .collect::<ort::Result<Vec<(Cow<str>, SessionInputValue)>>>()
            .map_err(failed)?;
        let outputs = session.run_with_options(values, run_options).map_err(failed)?;
        let mut outputs = spec
            .outputs
            .iter()
            .map(|spec| {
                let missing = || ort::Error::new(format!("no output {:?}", spec.name));
                let value = outputs.get(&spec.name).ok_or_else(missing)?;
                from_ort(spec, value)
            })
            .collect::<ort::Result<Vec<_>>>()
            .map_err(failed)?;
        reshapes.to_client(&mut outputs).map_err(EngineError::failed)?;
        Ok(outputs)
    }
}

/// Classifies the error of a failed run by ONNX Runtime's error code.
fn failed(error: ort::Error) -> EngineError {
    let code = match error.code() {
        ErrorCode::InvalidArgument => RunErrorCode::InvalidInput,
        ErrorCode::DeviceReset => RunErrorCode::DeviceReset,
        _ => RunErrorCode::Unspecific,
    };
    EngineError::Failed(RunError::new(code, error))
}
