//! The memory of the gateways and of Redis during a fault.

use std::time::Duration;

use anyhow::Result;
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use crate::{
    findings::Findings,
    fleet::{ChaosFleet, resident},
};

/// How often memory is sampled.
const INTERVAL: Duration = Duration::from_millis(100);
/// The largest share of the memory limit that a gateway may use, in percent.
const SHARE: u64 = 80;

/// Samples the memory of a fleet's gateways and Redis.
pub(crate) struct MemoryWatch {
    stop: watch::Sender<bool>,
    task: JoinHandle<MemoryPeaks>,
}

/// The largest sample of resident memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct MemoryPeaks {
    gateway: u64,
    redis: u64,
}

impl MemoryWatch {
    /// Starts to sample the fleet's current processes.
    pub(crate) async fn watch(fleet: &ChaosFleet) -> Result<Self> {
        let redis = fleet.control().process_id().await?;
        let gateways: Vec<u32> =
            fleet.gateways.iter().filter_map(crate::fleet::Member::id).collect();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut peaks = MemoryPeaks::default();
            while !*stopped.borrow() {
                let gateway = gateways.iter().filter_map(|id| resident(*id)).max();
                peaks.gateway = peaks.gateway.max(gateway.unwrap_or_default());
                peaks.redis = peaks.redis.max(resident(redis).unwrap_or_default());
                sleep(INTERVAL).await;
            }
            peaks
        });
        Ok(Self { stop, task })
    }

    /// Records the promise that no gateway used more than 80 % of its container's `limit` in bytes.
    pub(crate) async fn judge(self, findings: &mut Findings, limit: u64) -> Result<()> {
        self.stop.send_replace(true);
        let peaks = self.task.await?;
        let (gateway, redis, most) =
            (peaks.gateway >> 20, peaks.redis >> 20, (limit * SHARE / 100) >> 20);
        findings.check(gateway <= most, format!("gateway at most {gateway} MiB (≤ {most})"));
        findings.note(format!("Redis at most {redis} MiB"));
        Ok(())
    }
}
