//! Metrics are documented, and agree with the counts of the load tool.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use batchfleet_loadgen::{Echo, Length, LoadPlan, Report, Target, infer::Encoding, run};
use batchfleet_service::metrics::{MetricGroup, ProcessMetrics, table};
use batchfleet_testkit::{Fleet, FleetPlan, Program, get};
use tokio::time::timeout;

const PREFACE: &str = "# Metrics

Every program serves these at `/metrics` of its admin port, in Prometheus' text format or, for clients that
ask for it, in OpenMetrics, beside the `process_*` metrics of its libraries. Counters and gauges that have not changed yet are exported as 0.
Histograms have the same bounds in every process, so they add up over processes:
`histogram_quantile(0.99, sum by (le) (rate(batchfleet_gateway_request_seconds_bucket[5m])))`.

Metrics without a program in their name (`batchfleet_queue_depth`) describe the whole fleet, and every
gateway exports them: take their maximum, not their sum. `nv_inference_*` metrics count one gateway's
requests: sum them. `batchfleet serve` has the metrics of a gateway and of a worker.

`cargo test -p batchfleet-testkit --test metrics` generates this page from the programs.
";

#[test]
fn the_documented_metrics_are_those_that_programs_register() {
    let programs = [
        ("Every program", ProcessMetrics::describe().unwrap()),
        ("Gateway", batchfleet_gateway::describe_metrics().unwrap()),
        ("Worker", batchfleet_worker::describe_metrics().unwrap()),
        ("Controller", batchfleet_controller::describe_metrics().unwrap()),
    ];
    let sections = programs
        .iter()
        .map(|(program, described)| format!("\n## {program}\n\n{}", table(described)));
    let page: String = [PREFACE.to_owned()].into_iter().chain(sections).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let committed =
        std::fs::read_to_string(root.join("docs/reference/metrics.md")).unwrap_or_default();
    if committed != page {
        let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("metrics.md");
        std::fs::write(&fresh, page).unwrap();
        panic!(
            "docs/reference/metrics.md is out of date: `cp {} docs/reference/`",
            fresh.display()
        );
    }
}

/// A list that lacks a refusal code of the fleet yields a wrong rate of missed requests.
#[test]
fn boards_and_alerts_count_exactly_the_refusals_that_gateways_put_on_the_fleet() {
    let codes = batchfleet_gateway::fleet_refusal_codes();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dashboards");
    for file in ["boards.py", "alerts.yaml"] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        // Each list is a quoted regular expression: the sorted codes, separated by `|`.
        let lists =
            text.split('"').filter(|part| part.split('|').any(|part| codes.contains(&part)));
        let lists: Vec<_> = lists.filter(|part| part.contains('|')).collect();
        assert!(!lists.is_empty(), "{file} lists no refusals");
        for list in lists {
            assert_eq!(list, codes.join("|"), "in {file}");
        }
    }
}

/// One scrape of several programs: each series, summed over the programs.
struct Samples(BTreeMap<String, f64>);

impl Samples {
    async fn of(programs: &[Program]) -> Self {
        let mut sums = BTreeMap::new();
        for program in programs {
            let (status, text) =
                get(&program.address("admin").await.unwrap(), "/metrics").await.unwrap();
            assert_eq!(status, 200);
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (series, value) = line.rsplit_once(' ').unwrap();
                *sums.entry(series.to_owned()).or_default() += value.parse::<f64>().unwrap();
            }
        }
        Self(sums)
    }

    /// The sum of the series of this name whose labels contain `label`.
    fn sum(&self, name: &str, label: &str) -> u64 {
        let named = |series: &str| series.split('{').next() == Some(name);
        let chosen = self.0.iter().filter(|(series, _)| named(series) && series.contains(label));
        let values: Vec<_> = chosen.map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "{name} {label} is not served");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let sum = values.iter().sum::<f64>().round() as u64;
        sum
    }

    fn all(&self, name: &str) -> u64 {
        self.sum(name, "")
    }
}

/// Sends requests of three rows each to all gateways.
async fn load(fleet: &Fleet, requests: u64) -> Report {
    let targets: Vec<Target> =
        fleet.targets().iter().map(|target| target.parse().unwrap()).collect();
    let echo = Echo::new("echo", "INPUT0", 3, 32, Encoding::Binary).unwrap();
    let one = LoadPlan::new(targets[0].clone(), Arc::new(echo), 0);
    run(LoadPlan { targets, users: 24, length: Length::Requests(requests), ..one }).await.unwrap()
}

/// Scrapes until `condition` holds. Some metrics change after the answer, others once a second.
async fn once(programs: &[Program], condition: impl Fn(&Samples) -> bool) -> Samples {
    let all = async {
        loop {
            let samples = Samples::of(programs).await;
            if condition(&samples) {
                // Programs may have updated metrics during the scrape, so scrape again.
                return Samples::of(programs).await;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), all).await.unwrap()
}

#[tokio::test]
async fn programs_and_the_load_tool_count_the_same() {
    let plan = FleetPlan {
        gateways: 2,
        workers: 2,
        worker_flags: &["--batch", "12", "--batch-sizes", "4,8,12", "--slo-p99", "10s"],
        batch_ms: 4,
        ..FleetPlan::default()
    };
    let fleet = Fleet::start(plan).await.unwrap();
    let report = load(&fleet, 900).await;
    assert!(report.is_flawless(), "{report}");
    let sent = report.sent;
    // The success count changes once a second, the pending count when the gateway reads the queue
    // depth.
    let all_counted = |samples: &Samples| {
        samples.all("nv_inference_request_success") >= sent
            && samples.all("nv_inference_pending_request_count") == 0
    };
    let gateways = once(&fleet.gateways, all_counted).await;
    let all_settled = |samples: &Samples| samples.all("batchfleet_worker_jobs_total") >= sent;
    let workers = once(&fleet.workers, all_settled).await;

    // The gateways count each request once.
    for name in ["offered_total", "accepted_total", "answered_total", "within_slo_total"] {
        assert_eq!(gateways.all(&format!("batchfleet_gateway_{name}")), sent, "{name}");
    }
    assert_eq!(gateways.sum("batchfleet_gateway_answered_total", "outcome=\"ok\""), sent);
    assert_eq!(gateways.all("batchfleet_gateway_request_seconds_count"), sent);
    for name in [
        "batchfleet_gateway_refused_total",
        "batchfleet_gateway_in_flight",
        "batchfleet_gateway_misrouted_total",
        "batchfleet_gateway_resubmissions_total",
        "batchfleet_gateway_unclaimed_replies_total",
        "batchfleet_gateway_broker_errors_total",
        "batchfleet_gateway_mismatched_workers",
        "nv_inference_request_failure",
    ] {
        assert_eq!(gateways.all(name), 0, "{name}");
    }

    // The workers count each row once, and each batch once, with one release reason and padding to
    // an allowed size.
    let (rows, batches) = (
        workers.all("batchfleet_worker_batch_size_sum"),
        workers.all("batchfleet_worker_batch_size_count"),
    );
    assert_eq!(rows, 3 * sent);
    assert_eq!(workers.sum("batchfleet_worker_jobs_total", "outcome=\"ok\""), sent);
    assert_eq!(workers.all("batchfleet_worker_jobs_total"), sent);
    assert_eq!(workers.all("batchfleet_worker_queue_wait_seconds_count"), sent);
    assert_eq!(workers.all("batchfleet_worker_batch_wait_seconds_count"), sent);
    for name in ["batch_seconds_count", "released_total", "broker_seconds_count"] {
        assert_eq!(workers.all(&format!("batchfleet_worker_{name}")), batches, "{name}");
    }
    assert_eq!((rows + workers.all("batchfleet_worker_padded_rows_total")) % 4, 0);
    // Each worker reports one bound of N and one execution provider.
    assert_eq!(workers.sum("batchfleet_worker_batch_limit_bound", "bound=\"fixed\""), 2);
    assert_eq!(workers.all("batchfleet_worker_batch_limit_bound"), 2);
    assert_eq!(workers.all("batchfleet_worker_execution_provider"), 2);
    assert_eq!(workers.all("batchfleet_worker_batch_limit"), 2 * 12);

    // Gateways, workers and Triton's aliases agree.
    assert_eq!(gateways.all("nv_inference_request_success"), sent);
    assert_eq!(gateways.all("nv_inference_count"), rows);
    // Each gateway rounds its number of batches.
    assert!(gateways.all("nv_inference_exec_count").abs_diff(batches) <= 1, "{batches}");
    assert_eq!(gateways.all("batchfleet_gateway_workers"), 2 * 2);
    let [whole, queue, compute] = ["request", "queue", "compute_infer"]
        .map(|part| gateways.all(&format!("nv_inference_{part}_duration_us")));
    assert!(compute > 4000 * sent && whole > queue + compute, "{whole} {queue} {compute}");
}

#[tokio::test]
async fn refused_and_late_requests_are_counted_as_such() {
    let plan =
        FleetPlan { worker_flags: &["--slo-p99", "1ms"], batch_ms: 20, ..FleetPlan::default() };
    let mut fleet = Fleet::start(plan).await.unwrap();
    let report = load(&fleet, 60).await;
    assert!(report.is_flawless(), "{report}");
    let all_counted = |samples: &Samples| samples.all("nv_inference_request_success") == 60;
    let late = once(&fleet.gateways, all_counted).await;
    assert_eq!(late.all("batchfleet_gateway_answered_total"), 60);
    assert_eq!(late.all("batchfleet_gateway_within_slo_total"), 0);

    fleet.workers.remove(0).terminate().await.unwrap();
    once(&fleet.gateways, |samples| samples.all("batchfleet_gateway_workers") == 0).await;
    let report = load(&fleet, 40).await;
    assert_eq!(report.reasons.values().sum::<u64>(), 40, "{report}");
    let rejected =
        |samples: &Samples| samples.sum("nv_inference_request_failure", "REJECTED") == 40;
    let refused = once(&fleet.gateways, rejected).await;
    assert_eq!(refused.sum("batchfleet_gateway_refused_total", "no_workers"), 40);
    assert_eq!(refused.all("batchfleet_gateway_refused_total"), 40);
    assert_eq!(refused.all("batchfleet_gateway_offered_total"), 100);
    assert_eq!(refused.all("batchfleet_gateway_accepted_total"), 60);
}

#[tokio::test]
async fn usage_and_the_access_log_name_the_client_and_the_model() {
    let plan = FleetPlan { gateway_flags: &["--access-log", "1"], ..FleetPlan::default() };
    let fleet = Fleet::start(plan).await.unwrap();
    let report = load(&fleet, 20).await;
    assert!(report.is_flawless(), "{report}");
    let used = Samples::of(&fleet.gateways).await;
    let of_client = |name: &str| {
        used.sum(
            &format!("batchfleet_gateway_usage_{name}_total"),
            "{client=\"127.0.0.1\",model=\"echo\"}",
        )
    };
    assert_eq!((of_client("requests"), of_client("rows")), (20, 60));
    // Three rows of 32 bytes each way, and the JSON around them.
    assert!(of_client("bytes") > 20 * 2 * 3 * 32, "{} bytes", of_client("bytes"));
    let answered = |line: &serde_json::Value| {
        line["message"] == "request answered" && line["path"] == "/v2/models/echo/infer"
    };
    let line = fleet.gateways[0].wait_for_log(answered).await.unwrap();
    for (field, value) in [("client", "127.0.0.1"), ("model", "echo"), ("method", "POST")] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!((&line["status"], &line["rows"]), (&200.into(), &3.into()), "{line}");
    assert!(line["seconds"].as_f64() > line["compute_seconds"].as_f64(), "{line}");
}
