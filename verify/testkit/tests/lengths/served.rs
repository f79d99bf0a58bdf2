//! Echo models served in two layouts, and loads of texts on them.

use std::{path::Path, sync::Arc, time::Duration};

use batchfleet_loadgen::{
    Echo, HttpAnswer, Length, LoadPlan, Prepared, Report, Workload, infer::Encoding, run,
};
use batchfleet_testkit::{Fleet, FleetPlan, Program, get, metric};

/// Where the queue of the models is.
pub(crate) enum Served {
    /// In the memory of `batchfleet serve`.
    InOneProcess(Program, [String; 1]),
    /// In Redis, with two gateways and two workers.
    OverRedis(Fleet),
}

impl Served {
    /// Serves all models of a repository with one process.
    pub(crate) async fn in_one_process(repository: &Path, flags: &[&str]) -> Self {
        let local = "127.0.0.1:0";
        let serve = ["serve", "--listen", local, "--admin-listen", local, "--model-repository"];
        let program = Program::named("batchfleet").unwrap().args(serve);
        let program = program.args([repository]).args(flags).spawn().unwrap();
        let admin = program.address("admin").await.unwrap();
        while get(&admin, "/readyz").await.unwrap().0 != 200 {
            tokio::task::yield_now().await;
        }
        let url = format!("http://{}", program.address("http").await.unwrap());
        Self::InOneProcess(program, [url])
    }

    /// Serves these models of a repository over Redis.
    pub(crate) async fn over_redis(repository: &Path, models: &[&str]) -> Self {
        let others: Vec<&str> = models[1..].iter().flat_map(|model| ["--model", model]).collect();
        let plan = FleetPlan {
            gateways: 2,
            workers: 2,
            serving: Some((repository, models[0])),
            worker_flags: &others,
            ..FleetPlan::default()
        };
        Self::OverRedis(Fleet::start(plan).await.unwrap())
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::InOneProcess(..) => "in one process",
            Self::OverRedis(_) => "over Redis, two gateways and two workers",
        }
    }

    /// The processes with a worker.
    pub(crate) fn workers(&self) -> Vec<&Program> {
        match self {
            Self::InOneProcess(program, _) => vec![program],
            Self::OverRedis(fleet) => fleet.workers.iter().collect(),
        }
    }

    fn targets(&self) -> &[String] {
        match self {
            Self::InOneProcess(_, targets) => targets,
            Self::OverRedis(fleet) => fleet.targets(),
        }
    }

    /// A worker metric of a model, summed over all workers. Fails if a worker has ended.
    pub(crate) async fn sum(&self, model: &str, name: &str) -> f64 {
        let series = format!("batchfleet_worker_{name}{{model=\"{model}\",version=\"1\"}}");
        let mut sum = 0.0;
        for worker in self.workers() {
            sum += metric(worker, &series).await.unwrap();
        }
        sum
    }

    /// Loads a model for this time with `users` that each send their next request after the answer to
    /// their last.
    pub(crate) async fn load(&self, users: usize, texts: Texts, time: Duration) -> Report {
        let targets: Vec<_> = self.targets().iter().map(|target| target.parse().unwrap()).collect();
        let one = LoadPlan::new(targets.first().cloned().unwrap(), Arc::new(texts), 0);
        let length = Length::Time(time);
        let timeout = Duration::from_mins(1);
        let plan = LoadPlan { targets, users, length, timeout, journal: true, ..one };
        run(plan).await.unwrap()
    }
}

/// Echoes of texts, whose lengths alternate.
pub(crate) struct Texts(Vec<Echo>);

impl Texts {
    /// Requests of `rows` texts each, of these lengths.
    pub(crate) fn new(model: &str, rows: u64, lengths: &[u64]) -> Self {
        let echo =
            |&length: &u64| Echo::new(model, "INPUT0", rows, length, Encoding::Binary).unwrap();
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
