//! Our pilot: the functions that decide in production, asked as production asks them.

use std::time::Duration;

use batchfleet_policy::{
    ArrivalRate, BatchMode, BatchPolicy, CostModel, Demand, Observation, ScalePolicy, Scaler,
    doomed,
};

use crate::engine::{Order, Pilot, Pull};

/// Each simulated worker decides by what itself has measured and seen, like a real one.
#[derive(Clone, Debug)]
pub struct Ours {
    policy: BatchPolicy,
    /// How long a request may take before it is refused; `None` lets all wait.
    deadline: Option<Duration>,
    /// What a fresh worker knows from its warm-up.
    fresh: CostModel,
    workers: Vec<Mind>,
    /// The worker whose batch ended last.
    last: usize,
    scaling: Scaling,
}

/// What one worker knows.
#[derive(Clone, Debug)]
struct Mind {
    cost: CostModel,
    rate: ArrivalRate,
}

/// Who decides about the number of workers.
#[derive(Clone, Debug)]
enum Scaling {
    /// Nobody.
    Fixed,
    /// Our rule, which believes workers to be so many times as fast as they are.
    Rule(ScalePolicy, Box<Scaler>, f64),
    /// Whoever knew the future: the workers from each tick on.
    Plan(std::vec::IntoIter<u32>),
}

impl Ours {
    /// N automatic up to `max_batch`, nobody refused, as many workers as there are.
    pub fn new(fresh: CostModel, max_batch: u32, slo: Duration) -> Self {
        let policy = BatchPolicy::new(BatchMode::Auto, max_batch, slo);
        let (workers, scaling) = (Vec::new(), Scaling::Fixed);
        Self { policy, deadline: None, fresh, workers, last: 0, scaling }
    }

    /// N as asked for.
    #[must_use]
    pub fn with_batch(mut self, mode: BatchMode) -> Self {
        self.policy.mode = mode;
        self
    }

    /// Whoever cannot be answered within `deadline` is refused.
    #[must_use]
    pub fn refusing(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Nobody is refused.
    #[must_use]
    pub fn queueing(mut self) -> Self {
        self.deadline = None;
        self
    }

    /// Workers come and go by our rule; `error` is how many times faster than they are it takes
    /// workers to be.
    #[must_use]
    pub fn scaling(mut self, policy: ScalePolicy, error: f64) -> Self {
        self.scaling = Scaling::Rule(policy, Box::default(), error);
        self
    }

    /// Workers come and go by this plan, one number a tick.
    #[must_use]
    pub fn following(mut self, plan: Vec<u32>) -> Self {
        self.scaling = Scaling::Plan(plan.into_iter());
        self
    }

    /// Requests per second of one of so many fresh workers within the latency target.
    pub fn capacity(&self, workers: u32) -> f64 {
        self.policy.capacity(&self.fresh, workers)
    }

    /// What a worker has learnt about the cost of batches; a fresh one, what its warm-up found.
    pub fn cost(&self, worker: usize) -> &CostModel {
        self.workers.get(worker).map_or(&self.fresh, |mind| &mind.cost)
    }

    fn mind(&mut self, worker: usize) -> &mut Mind {
        let fresh = || Mind { cost: self.fresh.clone(), rate: ArrivalRate::default() };
        if worker >= self.workers.len() {
            self.workers.resize_with(worker + 1, fresh);
        }
        &mut self.workers[worker]
    }
}

impl Pilot for Ours {
    fn pull(&mut self, pull: &Pull<'_>) -> Order {
        let (policy, deadline) = (self.policy, self.deadline);
        let Mind { cost, rate } = self.mind(pull.worker);
        rate.observe(Duration::from_secs_f64(pull.now), pull.arrived);
        let age = |&arrived: &f64| Duration::from_secs_f64(pull.now - arrived);
        let oldest = pull.waiting.first().map(age).unwrap_or_default();
        let waiting = u32::try_from(pull.waiting.len()).unwrap_or(u32::MAX);
        // Those that would be late are refused: nobody waits for longer than the target.
        let oldest = if deadline.is_some_and(|deadline| deadline <= policy.slo) {
            Duration::ZERO
        } else {
            oldest
        };
        let demand = Demand { workers: pull.workers, rate: rate.per_second(), waiting, oldest };
        let n = policy.choose(cost, &demand).n;
        let refuse = deadline.map_or(0, |deadline| {
            let left = pull.waiting.iter().map(|arrived| deadline.saturating_sub(age(arrived)));
            doomed(cost, n, waiting, left)
        });
        let oldest = pull.waiting.get(refuse as usize).map(age).unwrap_or_default();
        Order { refuse, rows: policy.take(cost, n, waiting - refuse, oldest) }
    }

    fn ran(&mut self, worker: usize, rows: u32, took: Duration) {
        self.last = worker;
        self.mind(worker).cost.observe(rows, took);
    }

    fn scale(&mut self, now: Duration, seen: &Observation) -> Option<u32> {
        let policy = self.policy;
        let cost = self.workers.get(self.last).map_or(&self.fresh, |mind| &mind.cost);
        match &mut self.scaling {
            Scaling::Fixed => None,
            Scaling::Rule(rule, scaler, error) => {
                let capacity = |workers| *error * policy.capacity(cost, workers);
                Some(scaler.decide(rule, now, seen, capacity).replicas)
            }
            Scaling::Plan(plan) => plan.next(),
        }
    }
}
