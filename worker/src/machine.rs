//! Processor time and memory of the machine, under the names of Triton.

use std::{fs, io, time::Duration};

use prometheus::Gauge;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Interval between two readings, as in Triton.
const EVERY: Duration = Duration::from_secs(2);

batchfleet_service::metrics! {
    /// The machine that the process runs on.
    #[derive(Clone, Debug)]
    pub(crate) struct MachineMetrics {
        /// Share of the last two seconds in which the processor cores of the machine were busy, for any
        /// process.
        #[metric("nv_cpu_utilization", unit = "ratio")]
        utilization: Gauge,
        /// Memory of the machine.
        #[metric("nv_cpu_memory_total_bytes", unit = "bytes")]
        memory: Gauge,
        /// Memory of the machine in use, by any process, without caches that the kernel can give up.
        #[metric("nv_cpu_memory_used_bytes", unit = "bytes")]
        used: Gauge,
    }
}

/// Processor time since the start of the machine, summed over cores, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct CpuTime {
    busy: u64,
    all: u64,
}

impl CpuTime {
    /// Reads the text of `/proc/stat`, whose first line has the times of all cores: user, nice,
    /// system, idle, iowait, irq, softirq and steal, then guest times that user and nice include.
    fn read(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let times: Option<Vec<u64>> =
            line.split_whitespace().take(8).map(|time| time.parse().ok()).collect();
        let times = times.filter(|times| times.len() >= 5)?;
        let all = times.iter().sum::<u64>();
        Some(Self { busy: all - times[3] - times[4], all })
    }

    /// The share of busy time since `before`; `None` if no time has passed.
    #[expect(clippy::cast_precision_loss, reason = "ticks between two readings are far below 2^52")]
    fn utilization(self, before: Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        Some(self.busy.saturating_sub(before.busy) as f64 / all as f64)
    }
}

/// The total and the used memory in the text of `/proc/meminfo`, in bytes.
fn memory(meminfo: &str) -> Option<(f64, f64)> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
        line.and_then(|number| number.trim().parse::<f64>().ok())
            .map(|kilobytes| kilobytes * 1024.0)
    };
    let total = bytes("MemTotal:")?;
    Some((total, total - bytes("MemAvailable:")?))
}

impl MachineMetrics {
    /// Sets the metrics. Returns the processor time, for the next call.
    fn update(&self, before: Option<CpuTime>) -> io::Result<Option<CpuTime>> {
        let now = CpuTime::read(&fs::read_to_string("/proc/stat")?);
        let memory = memory(&fs::read_to_string("/proc/meminfo")?);
        let utilization = now.zip(before).and_then(|(now, before)| now.utilization(before));
        if let Some(utilization) = utilization {
            self.utilization.set(utilization);
        }
        if let Some((total, used)) = memory {
            self.memory.set(total);
            self.used.set(used);
        }
        Ok(now.or(before))
    }

    /// Task: updates the metrics until `shutdown`.
    pub(crate) async fn watch(self, shutdown: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            match self.update(before) {
                Ok(now) => before = now,
                Err(error) => {
                    info!(%error, "no metrics of the machine: /proc cannot be read");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilization_is_the_share_of_time_that_was_not_idle() {
        let stat = |idle: u64, wait: u64| {
            CpuTime::read(&format!("cpu  100 0 50 {idle} {wait} 0 10 0 7 0\ncpu0 1 1 1 1 1\n"))
                .unwrap()
        };
        let before = stat(500, 0);
        assert_eq!(before, CpuTime { busy: 160, all: 660 });
        let now = CpuTime::read("cpu  110 0 55 530 10 0 15 0 9 0").unwrap();
        assert_eq!(now.utilization(before), Some(1.0 / 3.0));
        assert_eq!(before.utilization(before), None);
        for text in ["", "cpu0 1 2 3 4 5", "cpu  1 2 3", "cpu  1 2 x 4 5"] {
            assert_eq!(CpuTime::read(text), None, "{text}");
        }
    }

    #[test]
    fn memory_that_the_kernel_can_give_up_is_not_in_use() {
        let text = "MemTotal:    1000 kB\nMemFree:      100 kB\nMemAvailable:    400 kB\n";
        assert_eq!(memory(text), Some((1_024_000.0, 614_400.0)));
        assert_eq!(memory("MemTotal:    1000 kB\n"), None);
    }
}
