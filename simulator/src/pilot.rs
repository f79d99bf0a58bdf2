//! The pilot that decides with `batchfleet_policy`, using the same calls as worker and controller.

use std::time::Duration;

use batchfleet_policy::{
    ArrivalRate, BatchMode, BatchPolicy, Bound, CostModel, Observation, QueueLoad, ScalePolicy,
    Scaler, Standing, doomed,
};

use crate::engine::{Order, Pilot, Pull};

/// Decides with `batchfleet_policy`. Each simulated worker decides from its own measurements, like
/// a real worker.
#[derive(Clone, Debug)]
pub struct PolicyPilot {
    policy: BatchPolicy,
    /// Requests are refused if they cannot be answered within this time; `None` if requests are
    /// never refused.
    deadline: Option<Duration>,
    /// The cost model of a worker after its warm-up.
    fresh: CostModel,
    workers: Vec<WorkerState>,
    /// The worker that ended a batch last. Its cost model determines the number of workers.
    last: usize,
    /// How often N has changed by more than a tenth.
    swings: u32,
    scaling: ScalingMode,
}

/// The measurements of one worker.
#[derive(Clone, Debug)]
struct WorkerState {
    cost: CostModel,
    rate: ArrivalRate,
    standing: Standing,
    /// N, and whether a backlog determined it.
    n: u32,
    catching_up: bool,
}

/// How the number of workers is decided.
#[derive(Clone, Debug)]
enum ScalingMode {
    /// The number of workers is constant.
    Fixed,
    /// The policy decides. The capacity of workers is multiplied by the factor before the policy
    /// receives it.
    Rule(ScalePolicy, Box<Scaler>, f64),
    /// A plan gives the number for each tick.
    Plan(std::vec::IntoIter<u32>),
}

impl PolicyPilot {
    /// Returns a pilot with automatic N up to `max_batch`, without refusals, and with a constant
    /// number of workers.
    pub fn new(fresh: CostModel, max_batch: u32, slo: Duration) -> Self {
        let policy = BatchPolicy::new(BatchMode::Auto, max_batch, slo);
        let (workers, scaling) = (Vec::new(), ScalingMode::Fixed);
        Self { policy, deadline: None, fresh, workers, last: 0, swings: 0, scaling }
    }

    /// Sets how N is chosen.
    #[must_use]
    pub fn with_batch(mut self, mode: BatchMode) -> Self {
        self.policy.mode = mode;
        self
    }

    /// Refuses requests that cannot be answered within `deadline`.
    #[must_use]
    pub fn refusing(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Refuses no requests.
    #[must_use]
    pub fn queueing(mut self) -> Self {
        self.deadline = None;
        self
    }

    /// Lets the policy decide the number of workers, with the capacity of workers multiplied by
    /// `error`.
    #[must_use]
    pub fn scaling(mut self, policy: ScalePolicy, error: f64) -> Self {
        self.scaling = ScalingMode::Rule(policy, Box::default(), error);
        self
    }

    /// Follows a plan with one number of workers per tick.
    #[must_use]
    pub fn following(mut self, plan: Vec<u32>) -> Self {
        self.scaling = ScalingMode::Plan(plan.into_iter());
        self
    }

    /// μ(W): returns the requests per second that one of W fresh workers can do within the latency
    /// target.
    pub fn capacity(&self, workers: u32) -> f64 {
        self.policy.capacity(&self.fresh, workers)
    }

    /// Returns the cost model of a worker; of a fresh worker if `worker` has not run.
    pub fn cost(&self, worker: usize) -> &CostModel {
        self.workers.get(worker).map_or(&self.fresh, |state| &state.cost)
    }

    /// Returns how often the N of any worker has changed by more than a tenth.
    pub fn swings(&self) -> u32 {
        self.swings
    }

    /// Limits N to batches that do not count as hung, which takes `hung_after`.
    #[must_use]
    pub fn watched(mut self, hung_after: Duration) -> Self {
        self.policy.hung_after = hung_after;
        self
    }

    fn state(&mut self, worker: usize) -> &mut WorkerState {
        let fresh = || WorkerState {
            cost: self.fresh.clone(),
            rate: ArrivalRate::default(),
            standing: Standing::default(),
            n: 0,
            catching_up: false,
        };
        if worker >= self.workers.len() {
            self.workers.resize_with(worker + 1, fresh);
        }
        &mut self.workers[worker]
    }
}

impl Pilot for PolicyPilot {
    fn pull(&mut self, pull: &Pull<'_>) -> Order {
        let (policy, deadline, now) =
            (self.policy, self.deadline, Duration::from_secs_f64(pull.now));
        let state = self.state(pull.worker);
        state.rate.observe(now, pull.arrived);
        state.standing.observe(now);
        let age = |&arrived: &f64| Duration::from_secs_f64(pull.now - arrived);
        let waiting = u32::try_from(pull.waiting.len()).unwrap_or(u32::MAX);
        let load = QueueLoad {
            workers: pull.workers,
            rate: state.rate.per_second(),
            waiting,
            standing: state.standing.rows() * f64::from(pull.workers),
            allowance: deadline.unwrap_or(Duration::MAX),
            catching_up: state.catching_up,
        };
        let choice = policy.choose(&state.cost, &load);
        let (n, cost) = (choice.n, &state.cost);
        let refuse = deadline.map_or(0, |deadline| {
            let left = pull.waiting.iter().map(|arrived| deadline.saturating_sub(age(arrived)));
            doomed(cost, n, waiting, left)
        });
        let oldest = pull.waiting.get(refuse as usize).map(age).unwrap_or_default();
        let rows = policy.take(cost, n, waiting - refuse, oldest);
        let takes = cost.latency(rows);
        for arrived in pull.waiting.iter().skip(refuse as usize).take(rows as usize) {
            state.standing.add(1, age(arrived) + takes);
        }
        let swung = state.n > 0 && 10 * n.abs_diff(state.n) > n.max(state.n);
        (state.n, state.catching_up) = (n, choice.bound == Bound::Backlog);
        self.swings += u32::from(swung);
        Order { refuse, rows }
    }

    fn ran(&mut self, worker: usize, rows: u32, took: Duration) {
        self.last = worker;
        self.state(worker).cost.observe(rows, took);
    }

    fn scale(&mut self, now: Duration, seen: &Observation) -> Option<u32> {
        let policy = self.policy;
        let cost = self.workers.get(self.last).map_or(&self.fresh, |state| &state.cost);
        match &mut self.scaling {
            ScalingMode::Fixed => None,
            ScalingMode::Rule(rule, scaler, error) => {
                let capacity = |workers| *error * policy.capacity(cost, workers);
                Some(scaler.decide(rule, now, seen, capacity).replicas)
            }
            ScalingMode::Plan(plan) => plan.next(),
        }
    }
}
