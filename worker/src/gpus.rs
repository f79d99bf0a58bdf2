//! Memory, use and power of the GPUs, as the NVIDIA driver reports them.
//!
//! The driver's library is loaded at run time: on a machine without it, nothing is reported.

use std::{ffi::OsStr, time::Duration};

use nvml_wrapper::{Device, Nvml, error::NvmlError};
use prometheus::GaugeVec;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The driver's library, under the only name that containers have.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Time between two readings.
const EVERY: Duration = Duration::from_secs(2);

const GPU: [&str; 1] = ["gpu_uuid"];

batchfleet_service::metrics! {
    /// The GPUs that the process can see, with the names of Triton.
    #[derive(Clone, Debug)]
    pub(crate) struct GpuMetrics {
        /// Share of the last moment in which the GPU computed, for any process.
        #[metric("nv_gpu_utilization", unit = "ratio", labels = GPU)]
        utilization: GaugeVec,
        /// Memory of the GPU.
        #[metric("nv_gpu_memory_total_bytes", unit = "bytes", labels = GPU)]
        memory: GaugeVec,
        /// Memory of the GPU in use, by any process.
        #[metric("nv_gpu_memory_used_bytes", unit = "bytes", labels = GPU)]
        used: GaugeVec,
        /// Power that the GPU draws.
        #[metric("nv_gpu_power_usage", unit = "watts", labels = GPU)]
        power: GaugeVec,
        /// Most power that the GPU may draw.
        #[metric("nv_gpu_power_limit", unit = "watts", labels = GPU)]
        power_limit: GaugeVec,
        /// Energy that the GPU has used since the driver was loaded.
        #[metric("nv_energy_consumption", unit = "joules", labels = GPU)]
        energy: GaugeVec,
    }
}

/// What the driver says of one GPU. A value is missing if the GPU does not report it: parts of a GPU
/// (MIG) have memory only.
#[derive(Clone, Debug, Default, PartialEq)]
struct Reading {
    uuid: String,
    utilization: Option<f64>,
    memory: Option<f64>,
    used: Option<f64>,
    power: Option<f64>,
    power_limit: Option<f64>,
    energy: Option<f64>,
}

/// Reads the GPUs.
trait Gpus: Send + 'static {
    fn read(&self) -> Result<Vec<Reading>, NvmlError>;
}

impl Gpus for Nvml {
    fn read(&self) -> Result<Vec<Reading>, NvmlError> {
        (0..self.device_count()?).map(|index| reading(&self.device_by_index(index)?)).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a GPU are far below 2^52")]
fn reading(device: &Device<'_>) -> Result<Reading, NvmlError> {
    let memory = device.memory_info().ok();
    let watts = |milliwatts: u32| f64::from(milliwatts) / 1e3;
    Ok(Reading {
        uuid: device.uuid()?,
        utilization: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 1e2),
        memory: memory.as_ref().map(|memory| memory.total as f64),
        used: memory.as_ref().map(|memory| memory.used as f64),
        power: device.power_usage().ok().map(watts),
        power_limit: device.enforced_power_limit().ok().map(watts),
        energy: device.total_energy_consumption().ok().map(|millijoules| millijoules as f64 / 1e3),
    })
}

impl GpuMetrics {
    fn set(&self, readings: &[Reading]) {
        for reading in readings {
            for (gauge, value) in [
                (&self.utilization, reading.utilization),
                (&self.memory, reading.memory),
                (&self.used, reading.used),
                (&self.power, reading.power),
                (&self.power_limit, reading.power_limit),
                (&self.energy, reading.energy),
            ] {
                if let Some(value) = value {
                    gauge.with_label_values(&[reading.uuid.as_str()]).set(value);
                }
            }
        }
    }
}

/// The name of a GPU, such as `NVIDIA H200`; `gpu` if the driver does not tell.
pub(crate) fn name(device: u16) -> String {
    let nvml = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init();
    let name = nvml.and_then(|nvml| nvml.device_by_index(device.into())?.name());
    name.unwrap_or_else(|_| "gpu".to_owned())
}

/// Exports the GPUs until `shutdown`, if the driver's library is there.
pub(crate) fn watch(metrics: GpuMetrics, shutdown: CancellationToken) {
    match Nvml::builder().lib_path(OsStr::new(LIBRARY)).init() {
        Ok(nvml) => drop(tokio::spawn(export(nvml, metrics, shutdown))),
        Err(error) => {
            info!(%error, library = LIBRARY, "no metrics of GPUs: the driver's library is not there");
        }
    }
}

async fn export(gpus: impl Gpus, metrics: GpuMetrics, shutdown: CancellationToken) {
    let mut gpus = Some(gpus);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while let Some(reader) = gpus.take() {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        // A call into a driver may block.
        let read = spawn_blocking(move || (reader.read(), reader)).await;
        match read {
            Ok((Ok(readings), reader)) => {
                metrics.set(&readings);
                gpus = Some(reader);
            }
            Ok((Err(error), _)) => warn!(%error, "metrics of GPUs end: the driver does not answer"),
            Err(error) => warn!(%error, "metrics of GPUs end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_service::metrics::MetricGroup;
    use parking_lot::Mutex;
    use prometheus::{Registry, TextEncoder};
    use tokio::time::sleep;

    use super::*;

    /// GPUs with one reading after the other, and an error after the last.
    struct Fake(Mutex<Vec<Vec<Reading>>>);

    impl Gpus for Fake {
        fn read(&self) -> Result<Vec<Reading>, NvmlError> {
            self.0.lock().pop().ok_or(NvmlError::GpuLost)
        }
    }

    fn reading(uuid: &str, used: f64) -> Reading {
        Reading { uuid: uuid.to_owned(), used: Some(used), ..Reading::default() }
    }

    #[tokio::test]
    async fn the_last_reading_of_each_gpu_is_exported_under_the_names_of_triton() {
        tokio::time::pause();
        let registry = Registry::new();
        let metrics = GpuMetrics::register(&registry).unwrap();
        let readings = vec![
            vec![reading("GPU-a", 7.0), reading("GPU-b", 2.0)],
            vec![reading("GPU-a", 5.0), reading("GPU-b", 2.0)],
        ];
        let exporting =
            tokio::spawn(export(Fake(Mutex::new(readings)), metrics, CancellationToken::new()));
        while !exporting.is_finished() {
            sleep(EVERY).await;
        }
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("nv_gpu_memory_used_bytes{gpu_uuid=\"GPU-a\"} 7"), "{text}");
        assert!(text.contains("nv_gpu_memory_used_bytes{gpu_uuid=\"GPU-b\"} 2"), "{text}");
        assert!(!text.contains("nv_gpu_power_usage{"), "a value that is missing is not 0: {text}");
    }

    #[tokio::test]
    async fn a_machine_without_the_drivers_library_has_no_metrics_of_gpus() {
        let registry = Registry::new();
        watch(GpuMetrics::register(&registry).unwrap(), CancellationToken::new());
        assert!(registry.gather().is_empty() || Nvml::init().is_ok());
    }
}
