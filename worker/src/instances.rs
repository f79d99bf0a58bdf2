//! How many copies of a model one worker runs side by side, and on which devices: the
//! `instance_group` of its config. Pure.

use crate::{
    config::{InstanceGroup, InstanceKind},
    settings::ExecutionProvider,
};

/// The device of a worker, from its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerDevice {
    /// The provider that runs models unless their config asks for the processor.
    pub(crate) provider: ExecutionProvider,
    /// The number of the provider's device.
    pub(crate) number: u16,
}

/// One of the copies of a model that a worker runs side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// The execution provider that runs the instance.
    pub(crate) provider: ExecutionProvider,
    /// Threads that compute one batch, unless the model's config sets their number.
    pub(crate) threads: usize,
}

/// The instances that a worker with `device` runs, which share its `threads`. The error is a
/// sentence with the way out.
pub(crate) fn instances(
    groups: &[InstanceGroup],
    device: WorkerDevice,
    threads: usize,
) -> Result<Vec<Instance>, String> {
    if groups.is_empty() {
        return Ok(vec![Instance { provider: device.provider, threads }]);
    }
    let mut providers = Vec::new();
    for group in groups {
        let provider = provider(group, device)?;
        providers.extend((0..group.count.max(1)).map(|_| provider));
    }
    let threads = (threads / providers.len()).max(1);
    Ok(providers.into_iter().map(|provider| Instance { provider, threads }).collect())
}

fn provider(group: &InstanceGroup, device: WorkerDevice) -> Result<ExecutionProvider, String> {
    let InstanceGroup { kind, gpus, .. } = group;
    let runs_on_cpu = device.provider == ExecutionProvider::Cpu;
    match kind {
        InstanceKind::Cpu if !gpus.is_empty() => Err(format!(
            "its instance_group is of KIND_CPU, but lists the GPUs {gpus:?}: remove `gpus`, or say \
             KIND_GPU"
        )),
        InstanceKind::Cpu => Ok(ExecutionProvider::Cpu),
        InstanceKind::Gpu if runs_on_cpu => Err(
            "its instance_group is of KIND_GPU, but this worker runs on the processor: start the \
             worker with --execution-provider cuda or tensorrt, or say KIND_AUTO or KIND_CPU"
                .to_owned(),
        ),
        InstanceKind::Auto if runs_on_cpu => Ok(ExecutionProvider::Cpu),
        _ if gpus.is_empty() || gpus.contains(&device.number) => Ok(device.provider),
        _ => Err(format!(
            "its instance_group lists the GPUs {gpus:?}, but this worker runs on GPU {}: start one \
             worker per GPU, each with its --device, or remove `gpus`",
            device.number
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: WorkerDevice = WorkerDevice { provider: ExecutionProvider::Cpu, number: 0 };
    const GPU: WorkerDevice = WorkerDevice { provider: ExecutionProvider::Cuda, number: 1 };

    fn group(count: u32, kind: InstanceKind, gpus: &[u16]) -> InstanceGroup {
        InstanceGroup { count, kind, gpus: gpus.to_vec() }
    }

    #[test]
    fn the_count_of_every_group_is_run_on_its_kind_of_device() {
        use ExecutionProvider::{Cpu, Cuda};
        use InstanceKind::{Auto, Gpu};
        for (device, groups, expected) in [
            (CPU, vec![], vec![Cpu]),
            (GPU, vec![], vec![Cuda]),
            (CPU, vec![group(0, Auto, &[])], vec![Cpu]),
            (CPU, vec![group(3, InstanceKind::Cpu, &[])], vec![Cpu; 3]),
            (CPU, vec![group(2, Auto, &[0, 1])], vec![Cpu; 2]),
            (
                GPU,
                vec![group(2, Gpu, &[0, 1]), group(1, InstanceKind::Cpu, &[])],
                vec![Cuda, Cuda, Cpu],
            ),
            (GPU, vec![group(2, Auto, &[])], vec![Cuda; 2]),
        ] {
            let instances = instances(&groups, device, 8).unwrap();
            let providers: Vec<_> = instances.iter().map(|instance| instance.provider).collect();
            assert_eq!(providers, expected, "{groups:?}");
        }
    }

    #[test]
    fn instances_share_the_threads() {
        for (count, threads, expected) in [(1, 8, 8), (2, 8, 4), (3, 8, 2), (9, 8, 1)] {
            let groups = [group(count, InstanceKind::Auto, &[])];
            let instances = instances(&groups, CPU, threads).unwrap();
            assert!(instances.iter().all(|instance| instance.threads == expected), "{count}");
        }
    }

    #[test]
    fn a_device_that_the_worker_has_not_is_refused_with_the_way_out() {
        for (device, group, problem) in [
            (CPU, group(1, InstanceKind::Gpu, &[]), "start the worker with --execution-provider"),
            (
                GPU,
                group(1, InstanceKind::Gpu, &[0, 2]),
                "lists the GPUs [0, 2], but this worker runs on GPU 1",
            ),
            (GPU, group(1, InstanceKind::Auto, &[0]), "lists the GPUs [0], but"),
            (CPU, group(1, InstanceKind::Cpu, &[0]), "is of KIND_CPU, but lists the GPUs [0]"),
        ] {
            let error = instances(&[group], device, 1).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
