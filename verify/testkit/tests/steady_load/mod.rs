//! A load on the echo that runs while a test changes something.

use std::{sync::Arc, time::Duration};

use batchfleet_loadgen::{Echo, Length, LoadPlan, Report, Stop, Target, infer::Encoding, run};
use batchfleet_testkit::{Fleet, metric};
use tokio::{task::JoinHandle, time::sleep};

/// A load on all gateways of a fleet, of a minute at most.
pub(crate) struct SteadyLoad {
    stop: Stop,
    running: JoinHandle<Report>,
}

impl SteadyLoad {
    /// Starts a load of 24 users who try a refused request up to `tries` times.
    pub(crate) fn start(fleet: &Fleet, tries: u32) -> Self {
        let targets: Vec<Target> =
            fleet.targets().iter().map(|target| target.parse().unwrap()).collect();
        let echo = Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary).unwrap();
        let one = LoadPlan::new(targets[0].clone(), Arc::new(echo), 0);
        let length = Length::Time(Duration::from_mins(1));
        let plan = LoadPlan { targets, users: 24, length, tries, ..one };
        let stop = plan.stop.clone();
        Self { stop, running: tokio::spawn(async move { run(plan).await.unwrap() }) }
    }

    /// Waits until the gateways have accepted `requests` more requests.
    pub(crate) async fn until_accepted(&self, fleet: &Fleet, requests: f64) {
        let enough = accepted(fleet).await + requests;
        while accepted(fleet).await < enough {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the load. Each accepted request must have got exactly one answer, the right one.
    pub(crate) async fn end_flawless(self, fleet: &Fleet) -> Report {
        self.stop.now();
        let report = self.running.await.unwrap();
        assert!(report.is_flawless(), "{report}");
        let accepted = accepted(fleet).await.to_string();
        assert_eq!(accepted, report.right.to_string(), "{report}");
        report
    }
}

async fn accepted(fleet: &Fleet) -> f64 {
    let mut sum = 0.0;
    for gateway in &fleet.gateways {
        sum += metric(gateway, "batchfleet_gateway_accepted_total").await.unwrap();
    }
    sum
}
