//! The fields that concern the sessions of ONNX Runtime.

use super::{
    message::{self, Accelerator, Message},
    mistake::Mistake,
};

/// One entry of `instance_group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InstanceGroup {
    /// The number of instances; 0 counts as 1.
    pub(crate) count: u32,
    /// The devices of the instances.
    pub(crate) kind: InstanceKind,
    /// The numbers of the GPUs; empty for any.
    pub(crate) gpus: Vec<u16>,
}

/// The devices of an instance group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum InstanceKind {
    /// The worker's device. Stands for `KIND_AUTO` and for `KIND_MODEL`, which leaves the choice to
    /// the engine.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU.
    Gpu,
}

/// The groups of instances.
pub(super) fn instances(message: &Message) -> Result<Vec<InstanceGroup>, Mistake> {
    let group = |(index, group): (usize, &message::InstanceGroup)| {
        let mistake = |problem: String| Mistake::at("instance_group", index, problem);
        let kind = match group.kind {
            message::InstanceKind::Auto | message::InstanceKind::Model => InstanceKind::Auto,
            message::InstanceKind::Cpu => InstanceKind::Cpu,
            message::InstanceKind::Gpu => InstanceKind::Gpu,
        };
        let count = u32::try_from(group.count)
            .map_err(|_| mistake(format!("instance_group has the count {}", group.count)))?;
        let gpu = |&gpu: &i32| {
            let wrong = |_| mistake(format!("instance_group lists the GPU {gpu}"));
            u16::try_from(gpu).map_err(wrong)
        };
        let gpus = group.gpus.iter().map(gpu).collect::<Result<_, _>>()?;
        Ok(InstanceGroup { count, kind, gpus })
    };
    message.instance_group.iter().enumerate().map(group).collect()
}

/// How far the graph is optimised.
pub(super) fn graph_level(message: &Message) -> Option<i32> {
    message.optimization.as_ref()?.graph.as_ref().map(|graph| graph.level)
}

/// All execution accelerators.
pub(super) fn accelerators(message: &Message) -> Vec<Accelerator> {
    let optimization = message.optimization.as_ref();
    let Some(all) = optimization.and_then(|all| all.execution_accelerators.as_ref()) else {
        return Vec::new();
    };
    all.gpu_execution_accelerator.iter().chain(&all.cpu_execution_accelerator).cloned().collect()
}

/// Whether each batch size runs as one CUDA graph.
pub(super) fn cuda_graphs(message: &Message) -> bool {
    let optimization = message.optimization.as_ref();
    optimization.and_then(|all| all.cuda.as_ref()).is_some_and(|cuda| cuda.graphs)
}

/// The libraries of custom operators.
pub(super) fn operator_libraries(message: &Message) -> Vec<String> {
    let operations = message.model_operations.as_ref();
    operations.map(|operations| operations.op_library_filename.clone()).unwrap_or_default()
}
