//! ONNX Runtime. The only file that knows `ort`.
//!
//! The library is a file given by path and loaded once per process. An execution provider that was
//! asked for and is not there is an error: by itself the runtime would fall back to the CPU without
//! a word.

use std::{
    borrow::Cow,
    fmt::Debug,
    num::NonZeroU32,
    path::Path,
    sync::{Arc, OnceLock},
};

use batchfleet_broker::{Datatype, ModelSpec, Tensor, TensorSpec};
use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};
use ort::{
    ErrorCode,
    environment::Environment,
    ep::{
        ArenaExtendStrategy, CUDA, ExecutionProviderDispatch, TensorRT, cuda::ConvAlgorithmSearch,
    },
    logging::LogLevel,
    session::{Session, SessionInputValue},
    value::{
        DynValue, Outlet, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType,
        TensorRef,
    },
};

use super::{Engine, EngineError, RunError, RunErrorCode};
use crate::{layout::Layout, repository::ModelSource, settings::ExecutionProvider, tensors};

// Tensors travel as little-endian bytes and are handed to the library as they are.
const _: () = assert!(cfg!(target_endian = "little"), "only little-endian machines are supported");

/// ONNX Runtime with the options every session of this worker gets.
#[derive(Debug)]
pub(crate) struct Runtime {
    environment: Environment,
    provider: ExecutionProvider,
    device: i32,
    threads: usize,
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The library cannot be used.
    #[error("{path}: {problem}")]
    Library {
        /// The library's file.
        path: String,
        /// What the loader said.
        problem: String,
    },
    /// The execution provider that was asked for is not there.
    #[error(
        "--execution-provider {provider} cannot be used: {problem} It needs its device and driver, \
         and a library of ONNX Runtime built for it (see --onnxruntime)"
    )]
    Provider {
        /// Which.
        provider: &'static str,
        /// What the runtime said.
        problem: String,
    },
    /// The model itself, or what its config says of it.
    #[error("model {model}: {problem}")]
    Model {
        /// Name and version.
        model: String,
        /// What is wrong.
        problem: String,
    },
}

impl Runtime {
    /// Loads the library, unless this process has done so before.
    pub(crate) fn open(
        library: &Path,
        provider: ExecutionProvider,
        device: i32,
        threads: usize,
    ) -> Result<Self, LoadError> {
        static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
        let environment = ENVIRONMENT.get_or_init(|| {
            let builder = ort::init_from(library).map_err(|error| error.to_string())?;
            let builder = builder.with_name("batchfleet").with_telemetry(false);
            let environment =
                builder.with_logger(Arc::new(log)).build().map_err(|error| error.to_string())?;
            environment.set_log_level(LogLevel::Warning);
            Ok(environment)
        });
        let problem = |problem: &String| LoadError::Library {
            path: library.display().to_string(),
            problem: problem.clone(),
        };
        let environment = environment.as_ref().map_err(problem)?.clone();
        Ok(Self { environment, provider, device, threads })
    }

    fn providers(&self) -> Vec<ExecutionProviderDispatch> {
        let cuda = || {
            CUDA::default()
                .with_device_id(self.device)
                // The default search tries every algorithm again for every new batch size.
                .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
                .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
                .build()
                .error_on_failure()
        };
        let tensorrt =
            || TensorRT::default().with_device_id(self.device).build().error_on_failure();
        match self.provider {
            ExecutionProvider::Cpu => Vec::new(),
            ExecutionProvider::Cuda => vec![cuda()],
            ExecutionProvider::Tensorrt => vec![tensorrt(), cuda()],
        }
    }

    fn session(&self, source: &ModelSource) -> Result<Session, LoadError> {
        let model = |error: ort::Error| LoadError::Model {
            model: source.queue.to_string(),
            problem: error.to_string(),
        };
        let options = || -> ort::Result<_> {
            Ok(Session::builder(&self.environment)?
                .with_intra_threads(self.threads)?
                .with_intra_op_spinning(false)?)
        };
        options()
            .map_err(model)?
            .with_execution_providers(self.providers())
            .map_err(|error| LoadError::Provider {
                provider: self.provider.name(),
                problem: error.to_string(),
            })?
            .commit_from_file(&source.file)
            .map_err(model)
    }
}

/// The library's own warnings, as log lines.
fn log(level: LogLevel, category: &str, id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => {
            tracing::error!(category, id, location, "onnxruntime: {message}");
        }
        LogLevel::Warning => tracing::warn!(category, id, location, "onnxruntime: {message}"),
        _ => tracing::debug!(category, id, location, "onnxruntime: {message}"),
    }
}

/// A loaded ONNX model.
#[derive(Debug)]
pub(crate) struct Onnx {
    session: Session,
    spec: ModelSpec,
    provider: &'static str,
}

impl Onnx {
    /// Loads the model and learns its inputs and outputs from it.
    ///
    /// It batches if every input and output has a first dimension of any size, unless its config
    /// says no.
    pub(crate) fn load(
        source: &ModelSource,
        runtime: &Runtime,
        max_batch: u32,
    ) -> Result<Self, LoadError> {
        let session = runtime.session(source)?;
        let model = |problem| LoadError::Model { model: source.queue.to_string(), problem };
        let specs =
            |outlets: &[Outlet]| outlets.iter().map(tensor_spec).collect::<Result<Vec<_>, _>>();
        let inputs = specs(session.inputs()).map_err(model)?;
        let outputs = specs(session.outputs()).map_err(model)?;
        let can_batch = Layout::can_batch(&inputs, &outputs);
        let max_batch = match source.config.max_batch {
            Some(rows) if rows > 0 && !can_batch => {
                return Err(model(format!(
                    "config.pbtxt says max_batch_size {rows}, but not every input and output has a \
                     first dimension of any size; max_batch_size: 0 serves it without batching"
                )));
            }
            Some(rows) => rows,
            None if can_batch => max_batch,
            None => 0,
        };
        let spec = ModelSpec {
            queue: source.queue.clone(),
            platform: "onnxruntime_onnx".to_owned(),
            backend: "onnxruntime".to_owned(),
            max_batch: NonZeroU32::new(max_batch),
            inputs,
            outputs,
        };
        Ok(Self { session, spec, provider: runtime.provider.name() })
    }
}

impl Engine for Onnx {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn provider(&self) -> &'static str {
        self.provider
    }

    fn text_only(&self) -> bool {
        true
    }

    fn run(&mut self, inputs: Vec<Tensor>, _rows: u32) -> Result<Vec<Tensor>, EngineError> {
        let Self { session, spec, .. } = self;
        let values = inputs
            .iter()
            .map(|tensor| Ok((Cow::from(tensor.name.as_str()), to_ort(tensor)?)))
            .collect::<ort::Result<Vec<(Cow<str>, SessionInputValue)>>>()
            .map_err(failed)?;
        let outputs = session.run(values).map_err(failed)?;
        spec.outputs
            .iter()
            .map(|spec| {
                let missing = || ort::Error::new(format!("no output {:?}", spec.name));
                let value = outputs.get(&spec.name).ok_or_else(missing)?;
                from_ort(spec, value)
            })
            .collect::<ort::Result<_>>()
            .map_err(failed)
    }
}

/// A failed run, with what ONNX Runtime's code says about the cause.
fn failed(error: ort::Error) -> EngineError {
    let code = match error.code() {
        ErrorCode::InvalidArgument => RunErrorCode::InvalidInput,
        ErrorCode::DeviceReset => RunErrorCode::DeviceReset,
        _ => RunErrorCode::Unspecific,
    };
    EngineError::Failed(RunError::new(code, error))
}

fn tensor_spec(outlet: &Outlet) -> Result<TensorSpec, String> {
    let name = outlet.name().to_owned();
    let (Some(kind), Some(shape)) = (outlet.dtype().tensor_type(), outlet.dtype().tensor_shape())
    else {
        return Err(format!("{name:?} is not a tensor"));
    };
    let datatype =
        datatype(kind).ok_or_else(|| format!("{name:?} is of {kind}, which the protocol lacks"))?;
    Ok(TensorSpec { name, datatype, shape: shape.to_vec() })
}

fn datatype(kind: TensorElementType) -> Option<Datatype> {
    Some(match kind {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}

fn to_ort(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    match tensor.datatype {
        Datatype::Bool => {
            let flags: Vec<bool> = tensor.data.iter().map(|&byte| byte != 0).collect();
            Ok(OrtTensor::from_array((dims(tensor)?, flags))?.into())
        }
        Datatype::Uint8 => numbers::<u8>(tensor),
        Datatype::Uint16 => numbers::<u16>(tensor),
        Datatype::Uint32 => numbers::<u32>(tensor),
        Datatype::Uint64 => numbers::<u64>(tensor),
        Datatype::Int8 => numbers::<i8>(tensor),
        Datatype::Int16 => numbers::<i16>(tensor),
        Datatype::Int32 => numbers::<i32>(tensor),
        Datatype::Int64 => numbers::<i64>(tensor),
        Datatype::Fp16 => numbers::<f16>(tensor),
        Datatype::Fp32 => numbers::<f32>(tensor),
        Datatype::Fp64 => numbers::<f64>(tensor),
        Datatype::Bf16 => numbers::<bf16>(tensor),
        Datatype::Bytes => {
            let text = |string: Result<_, _>| {
                string.ok().and_then(|bytes| str::from_utf8(bytes).ok().map(str::to_owned))
            };
            let strings: Option<Vec<String>> = tensors::strings(&tensor.data).map(text).collect();
            let strings = strings.ok_or_else(|| ort::Error::new("a string is not text"))?;
            Ok(OrtTensor::from_string_array((dims(tensor)?, strings.as_slice()))?.into())
        }
    }
}

/// The library reads the bytes where they are; only bytes that lie badly are copied.
fn numbers<T>(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>>
where
    T: PrimitiveTensorElementType + Pod + Debug,
{
    let dims = dims(tensor)?;
    Ok(if let Ok(elements) = bytemuck::try_cast_slice::<u8, T>(&tensor.data) {
        TensorRef::from_array_view((dims, elements))?.into()
    } else {
        let elements: Vec<T> = bytemuck::pod_collect_to_vec(&tensor.data);
        OrtTensor::from_array((dims, elements))?.into()
    })
}

fn dims(tensor: &Tensor) -> ort::Result<Vec<i64>> {
    let too_large = |_| ort::Error::new("a dimension is too large");
    tensor.shape.iter().map(|&dim| i64::try_from(dim).map_err(too_large)).collect()
}

fn from_ort(spec: &TensorSpec, value: &DynValue) -> ort::Result<Tensor> {
    let (shape, data) = match spec.datatype {
        Datatype::Bool => {
            let (shape, flags) = value.try_extract_tensor::<bool>()?;
            (shape, Bytes::copy_from_slice(bytemuck::cast_slice(flags)))
        }
        Datatype::Uint8 => elements::<u8>(value)?,
        Datatype::Uint16 => elements::<u16>(value)?,
        Datatype::Uint32 => elements::<u32>(value)?,
        Datatype::Uint64 => elements::<u64>(value)?,
        Datatype::Int8 => elements::<i8>(value)?,
        Datatype::Int16 => elements::<i16>(value)?,
        Datatype::Int32 => elements::<i32>(value)?,
        Datatype::Int64 => elements::<i64>(value)?,
        Datatype::Fp16 => elements::<f16>(value)?,
        Datatype::Fp32 => elements::<f32>(value)?,
        Datatype::Fp64 => elements::<f64>(value)?,
        Datatype::Bf16 => elements::<bf16>(value)?,
        Datatype::Bytes => {
            let (shape, strings) = value.try_extract_strings()?;
            (shape, tensors::encode_strings(&strings))
        }
    };
    let shape = shape.iter().map(|&dim| dim.unsigned_abs()).collect();
    Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data })
}

fn elements<T>(value: &DynValue) -> ort::Result<(&ort::value::Shape, Bytes)>
where
    T: PrimitiveTensorElementType + Pod,
{
    let (shape, elements) = value.try_extract_tensor::<T>()?;
    Ok((shape, Bytes::copy_from_slice(bytemuck::cast_slice(elements))))
}
