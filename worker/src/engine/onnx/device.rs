//! A session of ONNX Runtime as a device: runs with values of the caller, through bound memory that
//! stays between runs, and as CUDA graphs.
//!
//! On a GPU, the host's side of the kept memory is pinned, so that copies need no staging. On the
//! processor the same calls use ordinary memory, which serves tests of this path.

use std::borrow::Cow;

use batchfleet_broker::{Tensor, TensorSpec};
use ort::{
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::{IoBinding, NoSelectedOutputs, RunOptions, Session, SessionInputValue},
    value::DynTensor,
};

use super::{
    convert::{dims, element_type, fill, from_ort, to_ort},
    failed,
    options::SessionOptions,
};
use crate::{
    engine::{EngineError, prepared::Device},
    settings::ExecutionProvider,
};

/// Option of a run: the devices that return unused memory after the run.
const SHRINKAGE: &str = "memory.enable_memory_arena_shrinkage";
/// Option of a run: the number of its CUDA graph, or -1 to run without one.
const GRAPH: &str = "gpu_graph_id";

/// Maximum number of bytes that are kept for inputs, unless those of one batch are more.
const MOST_KEPT: usize = 256 << 20;

/// A session, and the memory that stays between its runs.
pub(super) struct SessionDevice {
    // Dropped before the session.
    kept: Option<KeptMemory>,
    session: Session,
    run_options: RunOptions<NoSelectedOutputs>,
    /// The outputs that are served.
    outputs: Vec<TensorSpec>,
    place: Place,
    /// Graphs so far.
    graphs: u32,
}

/// Where a session runs.
#[derive(Clone, Copy, Debug)]
struct Place {
    provider: ExecutionProvider,
    device: i32,
}

/// Memory for inputs of the shapes that ran lately, and a place for outputs.
struct KeptMemory {
    binding: IoBinding,
    allocator: Allocator,
    /// The least recently used first.
    inputs: Vec<KeptInputs>,
    /// Where outputs are put.
    outputs: MemoryInfo<'static>,
}

/// Memory for inputs of one shape. The library must own the memory that is bound: it would copy
/// borrowed memory.
struct KeptInputs {
    shapes: Vec<Vec<u64>>,
    bytes: usize,
    values: Vec<DynTensor>,
}

/// Memory for batches of one shape, at addresses that do not change.
pub(super) struct GraphMemory {
    // Dropped before the memory that it names.
    binding: IoBinding,
    options: RunOptions<NoSelectedOutputs>,
    /// Each input on the host and on the device.
    inputs: Vec<[DynTensor; 2]>,
    /// Each output on the device and on the host.
    outputs: Vec<[DynTensor; 2]>,
}

impl Place {
    /// Memory of the host that the device reads and writes without staging.
    fn host(self, kind: MemoryType) -> ort::Result<MemoryInfo<'static>> {
        match self.provider {
            ExecutionProvider::Cpu => Self::processor(),
            _ => MemoryInfo::new(
                AllocationDevice::CUDA_PINNED,
                self.device,
                AllocatorType::Device,
                kind,
            ),
        }
    }

    /// The device's own memory.
    fn device(self) -> ort::Result<MemoryInfo<'static>> {
        let kind = MemoryType::Default;
        match self.provider {
            ExecutionProvider::Cpu => Self::processor(),
            _ => MemoryInfo::new(AllocationDevice::CUDA, self.device, AllocatorType::Device, kind),
        }
    }

    fn processor() -> ort::Result<MemoryInfo<'static>> {
        MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
    }
}

impl SessionDevice {
    /// Wraps a session with these options.
    pub(super) fn new(
        session: Session,
        options: &SessionOptions,
        outputs: Vec<TensorSpec>,
    ) -> ort::Result<Self> {
        let mut run_options = RunOptions::new()?;
        if let Some(devices) = &options.shrinkage {
            run_options.set(SHRINKAGE, devices)?;
        }
        if options.gpu.graphs {
            run_options.set(GRAPH, "-1")?;
        }
        let place = Place { provider: options.provider, device: options.device.into() };
        Ok(Self { kept: None, session, run_options, outputs, place, graphs: 0 })
    }

    /// Runs a batch once, and returns unused memory of a GPU to the driver.
    pub(super) fn shrink(&mut self, inputs: &[Tensor]) -> Result<(), EngineError> {
        let gpu = format!("gpu:{}", self.place.device);
        let mut options = RunOptions::new().map_err(failed)?;
        options.set(SHRINKAGE, gpu).map_err(failed)?;
        let values = values(inputs).map_err(failed)?;
        self.session.run_with_options(values, &options).map(drop).map_err(failed)
    }
}

/// The inputs of a run, which the library reads where they are.
fn values(inputs: &[Tensor]) -> ort::Result<Vec<(Cow<'_, str>, SessionInputValue<'_>)>> {
    inputs.iter().map(|tensor| Ok((Cow::from(tensor.name.as_str()), to_ort(tensor)?))).collect()
}

impl Device for SessionDevice {
    type Graph = GraphMemory;

    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
        let Self { session, run_options, outputs: specs, .. } = self;
        let values = values(inputs).map_err(failed)?;
        let outputs = session.run_with_options(values, run_options).map_err(failed)?;
        read(specs, &outputs).map_err(failed)
    }

    fn run_kept(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
        let Self { kept, session, run_options, outputs: specs, place, .. } = self;
        let kept = match kept {
            Some(kept) => kept,
            None => kept.insert(KeptMemory::new(session, *place).map_err(failed)?),
        };
        kept.run(inputs, session, run_options, specs).map_err(failed)
    }

    fn graph(&mut self, inputs: &[Tensor], outputs: &[Tensor]) -> Result<GraphMemory, EngineError> {
        self.graphs += 1;
        GraphMemory::new(&self.session, self.place, self.graphs, [inputs, outputs]).map_err(failed)
    }

    fn run_graph(
        &mut self,
        graph: &mut GraphMemory,
        inputs: &[Tensor],
    ) -> Result<Vec<Tensor>, EngineError> {
        graph.run(inputs, &mut self.session, &self.outputs).map_err(failed)
    }
}

/// Copies the served outputs out of the library's memory.
fn read(
    specs: &[TensorSpec],
    outputs: &ort::session::SessionOutputs<'_>,
) -> ort::Result<Vec<Tensor>> {
    let one = |spec: &TensorSpec| {
        let missing = || ort::Error::new(format!("no output {:?}", spec.name));
        from_ort(spec, outputs.get(&spec.name).ok_or_else(missing)?)
    };
    specs.iter().map(one).collect()
}

impl KeptMemory {
    fn new(session: &Session, place: Place) -> ort::Result<Self> {
        Ok(Self {
            binding: session.create_binding()?,
            allocator: Allocator::new(session, place.host(MemoryType::CPUInput)?)?,
            inputs: Vec::new(),
            outputs: place.host(MemoryType::CPUOutput)?,
        })
    }

    fn run(
        &mut self,
        inputs: &[Tensor],
        session: &mut Session,
        options: &RunOptions<NoSelectedOutputs>,
        specs: &[TensorSpec],
    ) -> ort::Result<Vec<Tensor>> {
        let mut kept = self.take(inputs)?;
        for (input, value) in inputs.iter().zip(&mut kept.values) {
            fill(value, input)?;
            // Binding copies the value to the device.
            self.binding.bind_input(input.name.as_str(), value)?;
        }
        self.inputs.push(kept);
        for spec in specs {
            // Anew for each run, because the last run may have had another shape.
            self.binding.bind_output_to_device(spec.name.as_str(), &self.outputs)?;
        }
        let outputs = session.run_binding_with_options(&self.binding, options)?;
        self.binding.synchronize_outputs()?;
        read(specs, &outputs)
    }

    /// Takes the memory for inputs of these shapes out of the list, or gets new memory.
    fn take(&mut self, inputs: &[Tensor]) -> ort::Result<KeptInputs> {
        let is_alike = |kept: &KeptInputs| {
            kept.shapes.len() == inputs.len()
                && kept.shapes.iter().zip(inputs).all(|(shape, input)| *shape == input.shape)
        };
        if let Some(at) = self.inputs.iter().position(is_alike) {
            return Ok(self.inputs.remove(at));
        }
        let bytes: usize = inputs.iter().map(|input| input.data.len()).sum();
        let mut total: usize = bytes + self.inputs.iter().map(|kept| kept.bytes).sum::<usize>();
        while total > MOST_KEPT && !self.inputs.is_empty() {
            total -= self.inputs.remove(0).bytes;
        }
        let value = |input: &Tensor| {
            DynTensor::new(&self.allocator, element_type(input.datatype)?, dims(input)?)
        };
        Ok(KeptInputs {
            shapes: inputs.iter().map(|input| input.shape.clone()).collect(),
            bytes,
            values: inputs.iter().map(value).collect::<ort::Result<_>>()?,
        })
    }
}

impl GraphMemory {
    fn new(
        session: &Session,
        place: Place,
        number: u32,
        [inputs, outputs]: [&[Tensor]; 2],
    ) -> ort::Result<Self> {
        let mut options = RunOptions::new()?;
        options.set(GRAPH, number.to_string())?;
        let to_device = Allocator::new(session, place.host(MemoryType::CPUInput)?)?;
        let from_device = Allocator::new(session, place.host(MemoryType::CPUOutput)?)?;
        let device = Allocator::new(session, place.device()?)?;
        let pair = |tensor: &Tensor, allocators: [&Allocator; 2]| {
            let kind = element_type(tensor.datatype)?;
            let [one, other] = allocators;
            let shape = || dims(tensor);
            Ok([DynTensor::new(one, kind, shape()?)?, DynTensor::new(other, kind, shape()?)?])
        };
        let mut memory = Self {
            binding: session.create_binding()?,
            options,
            inputs: inputs
                .iter()
                .map(|input| pair(input, [&to_device, &device]))
                .collect::<ort::Result<_>>()?,
            outputs: outputs
                .iter()
                .map(|output| pair(output, [&device, &from_device]))
                .collect::<ort::Result<_>>()?,
        };
        for (input, [_, device]) in inputs.iter().zip(&memory.inputs) {
            memory.binding.bind_input(input.name.as_str(), device)?;
        }
        for (output, [device, _]) in outputs.iter().zip(&mut memory.outputs) {
            memory.binding.bind_output(output.name.as_str(), device)?;
        }
        Ok(memory)
    }

    fn run(
        &mut self,
        inputs: &[Tensor],
        session: &mut Session,
        specs: &[TensorSpec],
    ) -> ort::Result<Vec<Tensor>> {
        for (input, [host, device]) in inputs.iter().zip(&mut self.inputs) {
            fill(host, input)?;
            host.copy_into(device)?;
        }
        drop(session.run_binding_with_options(&self.binding, &self.options)?);
        let mut outputs = Vec::with_capacity(specs.len());
        for (spec, [device, host]) in specs.iter().zip(&mut self.outputs) {
            device.copy_into(&mut *host)?;
            outputs.push(from_ort(spec, &SessionInputValue::from(&*host))?);
        }
        Ok(outputs)
    }
}
