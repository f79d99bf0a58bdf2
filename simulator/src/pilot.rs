//! The pilot that decides with `batchfleet_policy`, using the same calls as worker and controller.

use std::time::Duration;

use batchfleet_policy::{
    ArrivalRate, BatchMode, BatchPolicy, CostModel, Observation, QueueLoad, ScalePolicy, Scaler,
    doomed,
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
    scaling: ScalingMode,
}

/// The measurements of one worker.
#[derive(Clone, Debug)]
struct WorkerState {
    cost: CostModel,
    rate: ArrivalRate,
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
        Self { policy, deadline: None, fresh, workers, last: 0, scaling }
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

    fn state(&mut self, worker: usize) -> &mut WorkerState {
        let fresh = || WorkerState { cost: self.fresh.clone(), rate: ArrivalRate::default() };
        if worker >= self.workers.len() {
            self.workers.resize_with(worker + 1, fresh);
        }
        &mut self.workers[worker]
    }
}

impl Pilot for PolicyPilot {
    fn pull(&mut self, pull: &Pull<'_>) -> Order {
        let (policy, deadline) = (self.policy, self.deadline);
        let WorkerState { cost, rate } = self.state(pull.worker);
        rate.observe(Duration::from_secs_f64(pull.now), pull.arrived);
        let age = |&arrived: &f64| Duration::from_secs_f64(pull.now - arrived);
        let oldest = pull.waiting.first().map(age).unwrap_or_default();
        let waiting = u32::try_from(pull.waiting.len()).unwrap_or(u32::MAX);
        // If the deadline is below the target, late requests are refused, so no backlog is older
        // than the target.
        let oldest = if deadline.is_some_and(|deadline| deadline <= policy.slo) {
            Duration::ZERO
        } else {
            oldest
        };
        let load = QueueLoad { workers: pull.workers, rate: rate.per_second(), waiting, oldest };
        let n = policy.choose(cost, &load).n;
        let refuse = deadline.map_or(0, |deadline| {
            let left = pull.waiting.iter().map(|arrived| deadline.saturating_sub(age(arrived)));
            doomed(cost, n, waiting, left)
        });
        let oldest = pull.waiting.get(refuse as usize).map(age).unwrap_or_default();
        Order { refuse, rows: policy.take(cost, n, waiting - refuse, oldest) }
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
