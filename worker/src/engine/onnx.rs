//! Engines on ONNX Runtime. Only this module uses the `ort` crate.

mod convert;
mod device;
mod load_error;
mod log;
mod options;
mod placement;
mod runtime;
mod tensorrt;

use std::{path::PathBuf, sync::Arc};

use batchfleet_broker::{ModelSpec, Tensor, TensorSpec};
use ort::{ErrorCode, session::Session, value::Outlet};

pub use self::runtime::ModelLoadError;
pub(crate) use self::runtime::Runtime;
use self::{
    convert::{default_spec, tensor_spec},
    device::SessionDevice,
    options::SessionOptions,
};
use super::{
    Alike, Engine, EngineError, RunError, RunErrorCode,
    prepared::{Prepared, Ways},
};
use crate::{
    config::{ModelConfig, ModelOutput, Served},
    instances::Instance,
    repository::{ModelBytes, ModelSource},
    reshape::Reshapes,
    settings::{ExecutionProvider, ModelSettings},
};

/// Maximum number of inputs with a default value that requests may give without a config.
const MOST_DEFAULTS: usize = 16;

/// A loaded ONNX model.
pub(crate) struct Onnx {
    // Dropped before the data that it uses.
    runs: Prepared<SessionDevice>,
    /// The external data of the model.
    _data: Vec<Arc<[u8]>>,
    spec: ModelSpec,
    reshapes: Reshapes,
    provider: ExecutionProvider,
    memcpy_nodes: u32,
    /// Whether graphs are wanted, so that only some batch sizes should run.
    has_sizes: bool,
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
        settings: &ModelSettings,
    ) -> Result<Self, ModelLoadError> {
        let model = |problem| ModelLoadError::Model { model: source.queue.to_string(), problem };
        let folders = source.folders();
        let folders = folders.each_ref().map(PathBuf::as_path);
        let flags = settings.provider_options.iter().cloned().collect();
        let options = SessionOptions::read(&source.config, &flags, instance, &folders);
        let mut options = options.map_err(model)?;
        if instance.provider == ExecutionProvider::Tensorrt {
            configure_tensorrt(&mut options, source, bytes, runtime, settings)?;
        }
        for note in &options.notes {
            tracing::warn!(model = %source.queue, note, "config setting has no effect");
        }
        let (session, placement) = runtime.session(source, bytes, &options)?;
        placement.check(settings.max_memcpy_nodes).map_err(model)?;
        options.notes.extend(placement.note());
        let inputs = session.inputs().iter().map(tensor_spec).collect::<Result<Vec<_>, _>>();
        let mut inputs = inputs.map_err(model)?;
        inputs.extend(defaults(&session, &source.config));
        let output = |outlet: &Outlet| ModelOutput {
            name: outlet.name().to_owned(),
            spec: tensor_spec(outlet),
        };
        let outputs = session.outputs().iter().map(output).collect();
        let served =
            source.config.served(source.queue.clone(), inputs, outputs, settings.max_batch.get());
        let Served { spec, reshapes } = served.map_err(model)?;
        let ways = Ways { kept_memory: options.gpu.kept_memory, graphs: options.gpu.graphs };
        let device = SessionDevice::new(session, &options, spec.outputs.clone());
        let device = device.map_err(|error| model(error.to_string()))?;
        let data = bytes.external.iter().map(|(_, data)| data.clone()).collect();
        Ok(Self {
            runs: Prepared::new(device, ways),
            _data: data,
            spec,
            reshapes,
            provider: options.provider,
            memcpy_nodes: placement.memcpy_nodes,
            has_sizes: ways.graphs,
            notes: options.notes,
        })
    }
}

/// Completes the options of TensorRT, or says what it lacks.
fn configure_tensorrt(
    options: &mut SessionOptions,
    source: &ModelSource,
    bytes: &ModelBytes,
    runtime: &Runtime,
    settings: &ModelSettings,
) -> Result<(), ModelLoadError> {
    let model = |problem| ModelLoadError::Model { model: source.queue.to_string(), problem };
    if let Some(problem) = tensorrt::missing(&runtime.folder) {
        return Err(ModelLoadError::TensorRt { problem });
    }
    let inputs = runtime.inputs(bytes).map_err(model)?;
    let place = (bytes, options.device, &*runtime.folder);
    tensorrt::configure(&mut options.gpu, &inputs, &source.config, settings, place).map_err(model)
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
        self.provider.name()
    }

    fn memcpy_nodes(&self) -> u32 {
        self.memcpy_nodes
    }

    fn has_sizes(&self) -> bool {
        self.has_sizes
    }

    fn notes(&self) -> Vec<String> {
        [&self.notes, self.runs.notes()].concat()
    }

    fn prepare(
        &mut self,
        inputs: &[Tensor],
        _rows: u32,
        alike: Alike<'_>,
    ) -> Result<(), EngineError> {
        let mut inputs = inputs.to_vec();
        self.reshapes.to_model(&mut inputs).map_err(EngineError::failed)?;
        self.runs.prepare(&inputs, alike)
    }

    fn return_memory(&mut self, inputs: &[Tensor]) -> Result<bool, EngineError> {
        // Graphs still use what the arena has for them.
        if self.provider != ExecutionProvider::Cuda || self.runs.has_graphs() {
            return Ok(false);
        }
        let mut inputs = inputs.to_vec();
        self.reshapes.to_model(&mut inputs).map_err(EngineError::failed)?;
        self.runs.device().shrink(&inputs)?;
        Ok(true)
    }

    fn run(&mut self, mut inputs: Vec<Tensor>, _rows: u32) -> Result<Vec<Tensor>, EngineError> {
        self.reshapes.to_model(&mut inputs).map_err(EngineError::failed)?;
        let mut outputs = self.runs.run(&inputs)?;
        self.reshapes.to_client(&mut outputs).map_err(EngineError::failed)?;
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
