//! The pilot that decides with `batchfleet_policy`, using the same calls as worker and controller.

use std::time::Duration;

use batchfleet_policy::{
    ArrivalRate, BatchMode, BatchPolicy, Bound, CostModel, FollowUpWait, FollowUps, LargestBatch,
    LengthCost, LengthSample, Observation, QueueLoad, ScalePolicy, Scaler, Standing, UsualRow,
    WaitingRows, doomed,
};

use crate::{
    engine::{Order, Pilot, Pull},
    request::Request,
    window::{Mix, Window, whole},
};

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
    /// How requests of different lengths run together; `None` if all rows have one length.
    window: Option<Window>,
    /// Whether workers begin at once, whatever is known to follow answers.
    at_once: bool,
    /// What a fresh worker knows of rows.
    usual: UsualRow,
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
    usual: UsualRow,
    /// How many batches in a row have overtaken the oldest request.
    overtaken: u32,
    /// N, and whether a backlog determined it.
    n: u32,
    catching_up: bool,
    follow_ups: FollowUps,
    /// The wait that has begun.
    wait: Option<FollowUpWait>,
    /// The number of requests whose arrival is known.
    known: u64,
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
        let usual = UsualRow::new(1.0);
        Self {
            policy,
            deadline: None,
            fresh,
            window: None,
            at_once: false,
            usual,
            workers,
            last: 0,
            swings: 0,
            scaling,
        }
    }

    /// Lets rows differ in length, of which each costs as many units as `lengths` says.
    #[must_use]
    pub fn with_lengths(mut self, lengths: LengthCost, mix: Mix) -> Self {
        self.window = Some(Window { lengths, mix });
        self.policy.pads = mix == Mix::Padded;
        self
    }

    /// Lets no worker wait for requests that follow answers.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.at_once = true;
        self
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

    /// Lets fresh workers know what rows cost in the batches of the worker of `other` that ended a
    /// batch last.
    #[must_use]
    pub fn learning_from(mut self, other: &Self) -> Self {
        self.usual = other.workers.get(other.last).map_or(other.usual, |state| state.usual);
        self
    }

    /// Returns the units that a row costs on average.
    pub fn row_units(&self) -> f64 {
        self.usual.units()
    }

    /// μ(W): returns the requests per second that one of W fresh workers can do within the latency
    /// target.
    pub fn capacity(&self, workers: u32) -> f64 {
        WorkerState::fresh(&self.fresh, self.usual).capacity(self.policy, workers)
    }

    /// Returns the same of the worker that ended a batch last.
    pub fn announced(&self, workers: u32) -> f64 {
        self.workers
            .get(self.last)
            .map_or_else(|| self.capacity(workers), |state| state.capacity(self.policy, workers))
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
        let fresh = || WorkerState::fresh(&self.fresh, self.usual);
        if worker >= self.workers.len() {
            self.workers.resize_with(worker + 1, fresh);
        }
        &mut self.workers[worker]
    }
}

impl WorkerState {
    fn fresh(cost: &CostModel, usual: UsualRow) -> Self {
        Self {
            cost: cost.clone(),
            rate: ArrivalRate::default(),
            standing: Standing::default(),
            usual,
            overtaken: 0,
            n: 0,
            catching_up: false,
            follow_ups: FollowUps::default(),
            wait: None,
            known: 0,
        }
    }

    fn capacity(&self, policy: BatchPolicy, workers: u32) -> f64 {
        let units = policy.in_units(self.usual.units()).capacity(&self.cost, workers);
        units / self.usual.units_at_full_load()
    }

    /// What the waiting requests cost in units, if they have the usual length.
    fn units(&self, waiting: &[Request]) -> u32 {
        let count = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        whole(f64::from(count) * self.usual.units())
    }

    /// Chooses N. Returns whether it changed by more than a tenth.
    fn choose_n(&mut self, policy: BatchPolicy, pull: &Pull<'_>, allowance: Duration) -> bool {
        let now = Duration::from_secs_f64(pull.now);
        self.rate.observe(now, pull.arrived);
        self.standing.observe(now);
        let units = self.usual.units();
        let load = QueueLoad {
            workers: pull.workers,
            rate: self.rate.per_second().map(|rate| rate * units),
            waiting: self.units(pull.waiting),
            standing: self.standing.rows() * f64::from(pull.workers) * units,
            allowance,
            catching_up: self.catching_up,
            outside: Duration::ZERO,
        };
        let choice = policy.in_units(units).choose(&self.cost, &load);
        let (before, n) = (self.n, choice.n);
        (self.n, self.catching_up) = (n, choice.bound == Bound::Backlog);
        before > 0 && 10 * n.abs_diff(before) > n.max(before)
    }

    /// Decides until when to wait for requests that follow answers, in seconds.
    fn wait(&mut self, pull: &Pull<'_>) -> Option<f64> {
        let units = self.usual.units();
        let new = usize::try_from(pull.arrived - self.known).unwrap_or(usize::MAX);
        self.known = pull.arrived;
        for request in &pull.waiting[pull.waiting.len().saturating_sub(new)..] {
            self.follow_ups.arrived(Duration::from_secs_f64(request.arrived), units);
        }
        let (now, waiting) = (Duration::from_secs_f64(pull.now), self.units(pull.waiting).into());
        self.wait = match self.wait.take() {
            Some(wait) => Some(wait).filter(|wait| now < wait.until && waiting < wait.rows),
            // Another worker could run what comes.
            None if pull.workers > 1 => None,
            None => self.follow_ups.wait(now, (waiting, self.n.into()), &self.cost),
        };
        self.wait.map(|wait| wait.until.as_secs_f64())
    }

    /// Chooses how many of the oldest requests run, and for how long. `age` is that of the oldest.
    fn oldest(&self, policy: BatchPolicy, count: usize, age: Duration) -> (Vec<usize>, Duration) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let rows = policy.take(&self.cost, self.n, count, age);
        ((0..rows as usize).collect(), self.cost.latency(rows))
    }

    /// Chooses which requests of different lengths run together, and for how long.
    fn together(
        &mut self,
        policy: BatchPolicy,
        window: &Window,
        waiting: impl Iterator<Item = WaitingRows>,
    ) -> (Vec<usize>, Duration) {
        let full = f64::from(self.n);
        let largest = match policy.mode {
            BatchMode::Auto => LargestBatch { rows: policy.max_batch, units: full },
            // Holds whatever the rows cost.
            BatchMode::Fixed(rows) => LargestBatch { rows, units: f64::INFINITY },
        };
        let held = window.claim(full, waiting);
        let Some(chosen) = window.choose(&self.cost, largest, &held, self.overtaken) else {
            return (Vec::new(), Duration::ZERO);
        };
        let is_overtaken = !chosen.run.contains(&0);
        self.overtaken = if is_overtaken { self.overtaken + 1 } else { 0 };
        for &at in &chosen.run {
            self.usual.arrived(held[at].rows, window.units(&held[at]));
        }
        let batch = chosen.batch;
        self.usual.ran(&self.cost, self.n, &batch);
        (chosen.run, self.cost.latency(batch.units))
    }
}

impl Pilot for PolicyPilot {
    fn pull(&mut self, pull: &Pull<'_>) -> Order {
        let (policy, window, deadline) = (self.policy, self.window, self.deadline);
        let at_once = self.at_once;
        let state = self.state(pull.worker);
        let swung = state.choose_n(policy, pull, deadline.unwrap_or(Duration::MAX));
        let age = |request: &Request| Duration::from_secs_f64(pull.now - request.arrived);
        let waits = |request: &Request| {
            let left =
                deadline.map_or(Duration::MAX, |deadline| deadline.saturating_sub(age(request)));
            WaitingRows { rows: 1, length: request.length, left }
        };
        let refuse = deadline.map_or(0, |_| {
            let left = pull.waiting.iter().map(|request| waits(request).left);
            doomed(&state.cost, state.n, state.units(pull.waiting), left)
        });
        let wait = if at_once { None } else { state.wait(pull) };
        if wait.is_some() {
            self.swings += u32::from(swung);
            return Order { refuse, run: Vec::new(), wait };
        }
        let others = &pull.waiting[refuse as usize..];
        let (run, takes) = match window {
            None => state.oldest(policy, others.len(), others.first().map(age).unwrap_or_default()),
            Some(window) => state.together(policy, &window, others.iter().map(waits)),
        };
        for request in run.iter().filter_map(|&at| others.get(at)) {
            state.standing.add(1, age(request) + takes);
        }
        self.swings += u32::from(swung);
        Order { refuse, run, wait }
    }

    fn ran(&mut self, worker: usize, ended: f64, batch: LengthSample) {
        self.last = worker;
        let units = self.window.map_or(1.0, |window| window.lengths.units(batch.length));
        let units = f64::from(batch.rows) * units;
        let state = self.state(worker);
        state.cost.observe(whole(units), batch.took);
        state.follow_ups.answered(Duration::from_secs_f64(ended), units);
    }

    fn scale(&mut self, now: Duration, seen: &Observation) -> Option<u32> {
        let fresh = WorkerState::fresh(&self.fresh, self.usual);
        let (policy, state) = (self.policy, self.workers.get(self.last).unwrap_or(&fresh));
        match &mut self.scaling {
            ScalingMode::Fixed => None,
            ScalingMode::Rule(rule, scaler, error) => {
                let capacity = |workers| *error * state.capacity(policy, workers);
                Some(scaler.decide(rule, now, seen, capacity).replicas)
            }
            ScalingMode::Plan(plan) => plan.next(),
        }
    }
}
