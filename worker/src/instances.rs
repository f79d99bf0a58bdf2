//! How many copies of a model one worker runs side by side, and on which devices: the
//! `instance_group` of its config. Pure.

use crate::{
    config::{InstanceGroup, InstanceKind},
    settings::{ExecutionProvider, Threads},
};

/// The devices of a worker, from its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerDevices {
    /// The provider that runs models unless their config asks for the processor.
    pub(crate) provider: ExecutionProvider,
    /// The numbers of the provider's devices; never empty.
    pub(crate) numbers: Vec<u16>,
}

/// One of the copies of a model that a worker runs side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// The execution provider that runs the instance.
    pub(crate) provider: ExecutionProvider,
    /// The number of the provider's device.
    pub(crate) device: u16,
    /// Threads that compute one batch, unless the model's config sets their number.
    pub(crate) threads: usize,
}

/// The instances that a worker with `devices` runs. Without groups, there is one on each device; the
/// count of a group is that of each of its GPUs, as in Triton. The error is a sentence with the way
/// out.
pub(crate) fn instances(
    groups: &[InstanceGroup],
    devices: &WorkerDevices,
    threads: Threads,
) -> Result<Vec<Instance>, String> {
    let whole = [InstanceGroup { count: 1, kind: InstanceKind::Auto, gpus: Vec::new() }];
    let mut places = Vec::new();
    for group in if groups.is_empty() { &whole[..] } else { groups } {
        for place in places_of(group, devices)? {
            places.extend((0..group.count.max(1)).map(|_| place));
        }
    }
    let on_cpu = places.iter().filter(|(provider, _)| *provider == ExecutionProvider::Cpu).count();
    let of = |provider| match threads.set {
        Some(threads) => threads,
        None if provider == ExecutionProvider::Cpu => (threads.shared / on_cpu.max(1)).max(1),
        // Only operators on shapes run on the processor.
        None => 1,
    };
    let instance = |(provider, device)| Instance { provider, device, threads: of(provider) };
    Ok(places.into_iter().map(instance).collect())
}

/// The provider and the device of each place where the instances of a group run.
fn places_of(
    group: &InstanceGroup,
    devices: &WorkerDevices,
) -> Result<Vec<(ExecutionProvider, u16)>, String> {
    let InstanceGroup { kind, gpus, .. } = group;
    let WorkerDevices { provider, numbers } = devices;
    let runs_on_cpu = *provider == ExecutionProvider::Cpu;
    match kind {
        InstanceKind::Cpu if !gpus.is_empty() => Err(format!(
            "its instance_group is of KIND_CPU, but lists the GPUs {gpus:?}: remove `gpus`, or say \
             KIND_GPU"
        )),
        InstanceKind::Gpu if runs_on_cpu => Err(
            "its instance_group is of KIND_GPU, but this worker runs on the processor: start the \
             worker with --execution-provider cuda or tensorrt, or say KIND_AUTO or KIND_CPU"
                .to_owned(),
        ),
        InstanceKind::Cpu => Ok(vec![(ExecutionProvider::Cpu, 0)]),
        InstanceKind::Auto if runs_on_cpu => Ok(vec![(ExecutionProvider::Cpu, 0)]),
        _ => {
            let is_wanted = |number: &&u16| gpus.is_empty() || gpus.contains(number);
            let places: Vec<_> =
                numbers.iter().filter(is_wanted).map(|&number| (*provider, number)).collect();
            if places.is_empty() {
                return Err(format!(
                    "its instance_group lists the GPUs {gpus:?}, but this worker runs on GPU {}: \
                     start it with other numbers in --device, or remove `gpus`",
                    listed(numbers)
                ));
            }
            Ok(places)
        }
    }
}

fn listed(numbers: &[u16]) -> String {
    numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: (ExecutionProvider, &[u16]) = (ExecutionProvider::Cpu, &[0]);
    const GPU: (ExecutionProvider, &[u16]) = (ExecutionProvider::Cuda, &[1]);

    fn run(
        groups: &[InstanceGroup],
        (provider, numbers): (ExecutionProvider, &[u16]),
        shared: usize,
    ) -> Result<Vec<Instance>, String> {
        let devices = WorkerDevices { provider, numbers: numbers.to_vec() };
        instances(groups, &devices, Threads { set: None, shared })
    }

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
            let instances = run(&groups, device, 8).unwrap();
            let providers: Vec<_> = instances.iter().map(|instance| instance.provider).collect();
            assert_eq!(providers, expected, "{groups:?}");
        }
    }

    #[test]
    fn instances_share_the_threads() {
        for (count, threads, expected) in [(1, 8, 8), (2, 8, 4), (3, 8, 2), (9, 8, 1)] {
            let groups = [group(count, InstanceKind::Auto, &[])];
            let instances = run(&groups, CPU, threads).unwrap();
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
            let error = run(&[group], device, 1).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_model_runs_on_every_gpu_of_the_worker_and_a_group_on_those_it_lists() {
        let two = (ExecutionProvider::Cuda, &[0, 2][..]);
        for (groups, expected) in [
            (vec![], vec![0, 2]),
            (vec![group(2, InstanceKind::Gpu, &[])], vec![0, 0, 2, 2]),
            (vec![group(1, InstanceKind::Auto, &[1, 2])], vec![2]),
        ] {
            let instances = run(&groups, two, 8).unwrap();
            let devices: Vec<u16> = instances.iter().map(|instance| instance.device).collect();
            assert_eq!(devices, expected, "{groups:?}");
        }
    }

    #[test]
    fn an_instance_on_a_gpu_has_one_thread_unless_the_settings_say_otherwise() {
        let groups = [group(1, InstanceKind::Gpu, &[]), group(2, InstanceKind::Cpu, &[])];
        let threads = |instances: Vec<Instance>| -> Vec<usize> {
            instances.iter().map(|instance| instance.threads).collect()
        };
        assert_eq!(threads(run(&groups, GPU, 8).unwrap()), [1, 4, 4]);
        let devices = WorkerDevices { provider: ExecutionProvider::Cuda, numbers: vec![1] };
        let set = Threads { set: Some(3), shared: 8 };
        assert_eq!(threads(instances(&groups, &devices, set).unwrap()), [3, 3, 3]);
    }
}
