//! Requests of unequal length: with declared padding they run in batches, over Redis, with several
//! gateways and workers, and every caller gets the answer to its own request.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "the test prints its figures")]

use std::{sync::Arc, time::Duration};

use batchfleet_loadgen::{
    Echo, HttpAnswer, Length, LoadPlan, Prepared, Workload, infer::Encoding, run,
};
use batchfleet_testkit::{Fleet, FleetPlan, metric, named_echo_model};
use tempfile::TempDir;

/// Users of a model. Each sends its next request after the answer to the last.
const USERS: usize = 64;
const MEASURED: Duration = Duration::from_secs(5);
/// A batch of b rows takes 4 + 0.05 · b milliseconds, whatever their length.
const TIMES: [(&str, &str); 2] = [("batch_ms", "4"), ("row_ms", "0.05")];
/// The lengths of texts: lognormal with median 55 and σ = 0.9, cut to 24 to 512 bytes, at equal
/// steps of probability.
const LENGTHS: [u64; 32] = [
    24, 24, 24, 24, 24, 26, 29, 32, 34, 37, 40, 43, 46, 49, 52, 55, 56, 60, 64, 68, 73, 78, 83, 90,
    97, 106, 116, 129, 146, 170, 214, 512,
];

/// Echoes whose lengths alternate.
struct Texts(Vec<Echo>);

impl Texts {
    fn new(model: &str, lengths: &[u64]) -> Self {
        let echo = |&length: &u64| Echo::new(model, "INPUT0", 1, length, Encoding::Binary).unwrap();
        Self(lengths.iter().map(echo).collect())
    }

    fn of(&self, index: u64) -> &Echo {
        // Neighbours in time are no neighbours in length.
        let at = index.wrapping_mul(13) % self.0.len() as u64;
        &self.0[usize::try_from(at).unwrap()]
    }
}

impl Workload for Texts {
    fn request(&self, index: u64) -> Prepared {
        self.of(index).request(index)
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        self.of(index).check(index, answer)
    }
}

/// Loads a model with texts of these lengths. Returns answers per second and the mean rows of its
/// batches.
async fn load(fleet: &Fleet, model: &str, lengths: &[u64]) -> (f64, f64) {
    let targets = fleet.targets();
    let texts = Arc::new(Texts::new(model, lengths));
    let one = LoadPlan::new(targets[0].parse().unwrap(), texts, 0);
    let urls = targets.iter().map(|target| target.parse().unwrap()).collect();
    let plan = LoadPlan { targets: urls, users: USERS, length: Length::Time(MEASURED), ..one };
    let (rows_before, batches_before) = batches(fleet, model).await;
    let report = run(plan).await.unwrap();
    assert!(report.is_flawless(), "{model}: {report}");
    let (rows, batches) = batches(fleet, model).await;
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    let rate = report.right as f64 / MEASURED.as_secs_f64();
    (rate, (rows - rows_before) / (batches - batches_before))
}

/// The rows and the batches of a model that have run.
async fn batches(fleet: &Fleet, model: &str) -> (f64, f64) {
    let (mut rows, mut batches) = (0.0, 0.0);
    for worker in &fleet.workers {
        let total = async |name: &str| {
            let series =
                format!("batchfleet_worker_batch_size_{name}{{model=\"{model}\",version=\"1\"}}");
            metric(worker, &series).await.unwrap()
        };
        rows += total("sum").await;
        batches += total("count").await;
    }
    (rows, batches)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_of_unequal_length_run_in_batches_if_padding_is_declared() {
    let folder = TempDir::new().unwrap();
    let padding = [("pad", "INPUT0:1=46"), ("cut", "OUTPUT0:1")];
    named_echo_model(folder.path(), "plain", 256, &TIMES).unwrap();
    named_echo_model(folder.path(), "padded", 256, &[TIMES, padding].concat()).unwrap();
    let plan = FleetPlan {
        gateways: 2,
        workers: 2,
        serving: Some((folder.path(), "plain")),
        worker_flags: &["--model", "padded"],
        ..FleetPlan::default()
    };
    let fleet = Fleet::start(plan).await.unwrap();
    let (one_length, one_rows) = load(&fleet, "padded", &[64]).await;
    let (unequal, unequal_rows) = load(&fleet, "plain", &LENGTHS).await;
    let (padded, padded_rows) = load(&fleet, "padded", &LENGTHS).await;
    println!(
        "{USERS} users, answers per second: {one_length:.0} of one length ({one_rows:.1} rows a \
         batch), {unequal:.0} of unequal lengths ({unequal_rows:.1}), {padded:.0} padded \
         ({padded_rows:.1})"
    );
    // The load itself takes much of two cores, so that rates differ less than batches.
    assert!(padded_rows >= 4.0 * unequal_rows, "{padded_rows:.1} rows, {unequal_rows:.1} unpadded");
    assert!(padded >= 2.5 * unequal, "{padded:.0}/s padded, {unequal:.0}/s unpadded");
    assert!(padded >= 0.6 * one_length, "{padded:.0}/s padded, {one_length:.0}/s of one length");
}
