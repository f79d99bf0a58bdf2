//! A discrete-event simulation of a fleet: one queue, workers that claim batches from the queue,
//! and the outcomes of requests. A [`Pilot`] makes all decisions.

mod workers;

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use batchfleet_policy::{LengthSample, Observation, RequestCounts};

use crate::{
    curve::Curve,
    outcome::SimulationOutcome,
    request::{Request, longest},
};
use workers::{Event, Time, Workers};

/// Makes the decisions of a simulated fleet.
pub trait Pilot {
    /// Decides what an idle worker claims while requests wait.
    fn pull(&mut self, pull: &Pull<'_>) -> Order;

    /// Called after each batch of a worker, with its end in seconds.
    fn ran(&mut self, worker: usize, ended: f64, batch: LengthSample);

    /// Decides the number of workers, once per tick. With `None` the number stays unchanged.
    fn scale(&mut self, now: Duration, seen: &Observation) -> Option<u32>;
}

/// State of an idle worker and of the queue.
#[derive(Debug)]
pub struct Pull<'a> {
    /// Seconds since the start.
    pub now: f64,
    /// The number of the idle worker.
    pub worker: usize,
    /// Workers that serve.
    pub workers: u32,
    /// The waiting requests, oldest first; never empty.
    pub waiting: &'a [Request],
    /// Number of requests that have arrived since the start.
    pub arrived: u64,
}

/// The pilot's order for an idle worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Number of oldest requests to refuse first.
    pub refuse: u32,
    /// Which of the other requests to run afterwards: their indices, in ascending order.
    pub run: Vec<usize>,
    /// Until when to wait for more requests instead. The pilot is asked again when one arrives.
    pub wait: Option<f64>,
}

impl Order {
    /// Returns the order to refuse some of the oldest requests, and to run the next `rows`.
    pub fn oldest(refuse: u32, rows: u32) -> Self {
        Self { refuse, run: (0..rows as usize).collect(), wait: None }
    }
}

/// A fleet and its load.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The true duration of batches.
    pub curve: Curve,
    /// A slowdown: its start in seconds, and the factor on the duration of batches.
    pub slower: Option<(f64, f64)>,
    /// Arrival times of the requests in seconds, in ascending order.
    pub arrivals: Arc<[f64]>,
    /// The lengths of the rows of requests, which they have in turn; never empty.
    pub lengths: Arc<[u64]>,
    /// How long a client takes from an answer to its next request, in seconds, if each of
    /// `arrivals` is the first request of a client; `None` if it is its only one.
    pub think: Option<f64>,
    /// Length of the simulation in seconds. Requests that still wait at the end are served.
    pub duration: f64,
    /// The latency beyond which a request is late.
    pub slo: Duration,
    /// Workers at the start.
    pub workers: u32,
    /// Time between ordering a worker and its first batch.
    pub cold_start: Duration,
    /// Time between decisions about the number of workers.
    pub tick: Duration,
}

impl Scenario {
    /// Returns a fleet of `workers` that serve from the start, with an SLO of 100 ms, ticks of 2.5 s,
    /// and no cold start.
    pub fn new(curve: Curve, arrivals: Vec<f64>, duration: f64, workers: u32) -> Self {
        Self {
            curve,
            slower: None,
            arrivals: arrivals.into(),
            lengths: [1].into(),
            think: None,
            duration,
            slo: Duration::from_millis(100),
            workers,
            cold_start: Duration::ZERO,
            tick: Duration::from_millis(2_500),
        }
    }

    /// Returns a fleet under the load of `clients`, each of which sends its next request within
    /// milliseconds of an answer.
    pub fn closed(curve: Curve, clients: u32, duration: f64, workers: u32) -> Self {
        let arrivals = (0..clients).map(|client| f64::from(client) * SPREAD).collect();
        Self { think: Some(THINK), ..Self::new(curve, arrivals, duration, workers) }
    }

    /// Runs the simulation.
    pub fn run(&self, pilot: &mut dyn Pilot) -> SimulationOutcome {
        let mut run = Run {
            scenario: self,
            requests: Vec::with_capacity(self.arrivals.len()),
            returning: BinaryHeap::new(),
            workers: Workers::new(self.workers),
            outcome: SimulationOutcome::new(self.duration, self.slo, self.workers),
            head: 0,
            arrived: 0,
            next_tick: 0.0,
            now: 0.0,
            waits: None,
        };
        self.arrivals.iter().for_each(|&at| run.expect(at));
        while run.step(pilot) {}
        run.outcome.end(self.duration);
        run.outcome
    }
}

/// The time from an answer to the client's next request, and between the next requests of clients
/// that are answered together, in seconds.
const THINK: f64 = 0.001;
const SPREAD: f64 = 0.000_05;

/// A running simulation. The waiting requests are those from index `head` to `arrived`.
struct Run<'a> {
    scenario: &'a Scenario,
    /// The requests whose arrival is known, in order of arrival except for those that have run.
    requests: Vec<Request>,
    /// The next requests of clients that think.
    returning: BinaryHeap<Reverse<Time>>,
    workers: Workers,
    outcome: SimulationOutcome,
    head: usize,
    arrived: usize,
    next_tick: f64,
    now: f64,
    /// Until when idle workers wait for more requests.
    waits: Option<f64>,
}

impl Run<'_> {
    /// Advances to the next event. Returns false if there is no further event.
    fn step(&mut self, pilot: &mut dyn Pilot) -> bool {
        // An arrival is an event only while a worker is idle. Otherwise the request waits until a
        // worker is free.
        let returning = self.returning.peek().map(|Reverse(Time(at))| *at);
        // While workers wait for more requests, those that have arrived are no event.
        let next = if self.waits.is_some() { self.arrived } else { self.head };
        let arrival = self.requests.get(next).map(|request| request.arrived).or(returning);
        let arrival = arrival.into_iter().chain(self.waits).min_by(f64::total_cmp);
        let arrival = arrival.filter(|_| self.workers.has_idle());
        let tick = Some(self.next_tick).filter(|&tick| tick < self.scenario.duration);
        let event = self.workers.next_event();
        let Some(next) = [arrival, tick, event].into_iter().flatten().min_by(f64::total_cmp) else {
            return false;
        };
        self.now = self.now.max(next);
        while self.returning.peek().is_some_and(|Reverse(Time(at))| *at <= self.now) {
            if let Some(Reverse(Time(at))) = self.returning.pop() {
                self.expect(at);
            }
        }
        while let Some(request) = self.requests.get(self.arrived)
            && request.arrived <= self.now
        {
            self.outcome.offered(request.arrived);
            self.arrived += 1;
        }
        while let Some(event) = self.workers.due(self.now) {
            if let Event::Ran { worker, rows, began, ended, first } = event {
                let ran = &self.requests[first..first + rows as usize];
                for request in ran {
                    self.outcome.answered(request.arrived, ended);
                }
                let took = Duration::from_secs_f64(ended - began);
                let batch = LengthSample { rows, length: longest(ran), took };
                self.think(ended, rows);
                pilot.ran(worker, ended, batch);
            }
        }
        if tick.is_some_and(|tick| tick <= self.now) {
            self.next_tick += self.scenario.tick.as_secs_f64();
            self.scale(pilot);
        }
        self.waits = None;
        while self.waits.is_none()
            && self.head < self.arrived
            && let Some(worker) = self.workers.idle()
        {
            self.pull(worker, pilot);
        }
        true
    }

    /// Adds a request that arrives at this time, after all others.
    fn expect(&mut self, arrived: f64) {
        let lengths = &self.scenario.lengths;
        let length = lengths.get(self.requests.len() % lengths.len().max(1)).copied().unwrap_or(1);
        self.requests.push(Request { arrived, length });
    }

    /// Lets clients send their next requests after `answers` at the same time.
    fn think(&mut self, at: f64, answers: u32) {
        if let Some(think) = self.scenario.think.filter(|_| at < self.scenario.duration) {
            let next = (1..=answers).map(|answer| at + think + f64::from(answer) * SPREAD);
            self.returning.extend(next.map(|at| Reverse(Time(at))));
        }
    }

    /// Executes the pilot's order for an idle worker. The worker runs at least one row, unless it waits.
    fn pull(&mut self, worker: usize, pilot: &mut dyn Pilot) {
        let waiting = &self.requests[self.head..self.arrived];
        let order = pilot.pull(&Pull {
            now: self.now,
            worker,
            workers: self.workers.ready(),
            waiting,
            arrived: self.arrived as u64,
        });
        let refused = waiting.len().min(order.refuse as usize);
        for request in &waiting[..refused] {
            self.outcome.refused(request.arrived);
        }
        self.head += refused;
        self.think(self.now, u32::try_from(refused).unwrap_or(u32::MAX));
        let waiting = &mut self.requests[self.head..self.arrived];
        self.waits = order.wait.filter(|until| *until > self.now && !waiting.is_empty());
        if waiting.is_empty() || self.waits.is_some() {
            return;
        }
        let count = bring_forward(waiting, &order.run).max(1);
        let batch = &waiting[..count];
        let rows = u32::try_from(count).unwrap_or(u32::MAX);
        let slower = self.scenario.slower.filter(|&(from, _)| self.now >= from);
        let takes = self.scenario.curve.seconds_of(rows, longest(batch));
        let takes = takes * slower.map_or(1.0, |(_, factor)| factor);
        self.outcome.ran(batch);
        self.workers.run(worker, self.head, rows, (self.now, self.now + takes));
        self.head += count;
    }

    fn scale(&mut self, pilot: &mut dyn Pilot) {
        let seen = Observation {
            counts: RequestCounts {
                at: Duration::from_secs_f64(self.now),
                offered: self.arrived as u64,
                missed: self.outcome.missed(),
            },
            waiting: (self.arrived - self.head) as u64,
            ready: self.workers.ready(),
            ordered: self.workers.ordered(),
            cold_start: self.scenario.cold_start,
        };
        if let Some(wanted) = pilot.scale(seen.counts.at, &seen) {
            let cold_start = self.scenario.cold_start.as_secs_f64();
            self.workers.scale(wanted, self.now + cold_start);
        }
        self.outcome.workers(self.now, self.workers.ordered(), self.workers.paid());
    }
}

/// Moves the requests at these indices, which ascend, before all others, and keeps both in order.
/// Returns how many there are. Indices beyond the last request do not count.
fn bring_forward(requests: &mut [Request], indices: &[usize]) -> usize {
    let (mut moved, count) = (0, requests.len());
    for &at in indices.iter().filter(|&&at| at < count) {
        requests[moved..=at].rotate_right(1);
        moved += 1;
    }
    moved
}

#[cfg(test)]
mod tests {
    use batchfleet_policy::BatchMode;

    use super::*;
    use crate::pilot::PolicyPilot;

    const SLO: Duration = Duration::from_millis(100);

    /// One row takes 20 ms, two rows take 30 ms.
    fn curve() -> Curve {
        Curve::affine(10.0, 10.0)
    }

    fn pairs() -> PolicyPilot {
        PolicyPilot::new(curve().cost(8).unwrap(), 8, SLO).with_batch(BatchMode::Fixed(2))
    }

    #[test]
    fn a_request_waits_for_the_batches_before_it_and_for_its_own() {
        let arrivals = vec![0.0, 0.0, 0.0, 0.1];
        let outcome = Scenario::new(curve(), arrivals, 1.0, 1).run(&mut pairs());
        assert_eq!((outcome.batches, outcome.rows, outcome.late), (3, 4, 0));
        // 30 ms for the first two requests, 50 ms for the third, 20 ms for the last.
        assert!((outcome.latency(1.0) - 0.050).abs() < 1e-4);
        assert!((outcome.latency(0.5) - 0.030).abs() < 1e-4);
        assert!((outcome.worker_seconds - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_batch_takes_as_long_as_its_longest_row_and_leaves_the_others_in_order() {
        struct Chooser(Vec<Vec<usize>>, Vec<LengthSample>);
        impl Pilot for Chooser {
            fn pull(&mut self, pull: &Pull<'_>) -> Order {
                let lengths: Vec<u64> = pull.waiting.iter().map(|request| request.length).collect();
                let run = self.0.remove(0);
                assert_eq!(run.iter().map(|&at| lengths[at]).max(), lengths.iter().min().copied());
                Order { refuse: 0, run, wait: None }
            }

            fn ran(&mut self, _: usize, _: f64, batch: LengthSample) {
                self.1.push(batch);
            }

            fn scale(&mut self, _: Duration, _: &Observation) -> Option<u32> {
                None
            }
        }
        let curve = curve().with_lengths(1.0, 0.0);
        let scenario = Scenario {
            lengths: [30, 10, 20, 10].into(),
            ..Scenario::new(curve, vec![0.0; 4], 1.0, 1)
        };
        let mut chooser = Chooser(vec![vec![1, 3], vec![1], vec![0]], Vec::new());
        let outcome = scenario.run(&mut chooser);
        let ran = |&LengthSample { rows, length, took }| (rows, length, took.as_millis());
        let ran: Vec<_> = chooser.1.iter().map(ran).collect();
        assert_eq!(ran, [(2, 10, 50), (1, 20, 40), (1, 30, 50)]);
        assert_eq!((outcome.rows, outcome.positions), (4, (70, 70)));
    }

    #[test]
    fn two_workers_share_the_queue() {
        let outcome = Scenario::new(curve(), vec![0.0; 4], 1.0, 2).run(&mut pairs());
        assert!((outcome.latency(1.0) - 0.030).abs() < 1e-4);
        assert!((outcome.worker_seconds - 2.0).abs() < 1e-9);
    }

    #[test]
    fn requests_that_cannot_be_on_time_are_refused_before_they_run() {
        let mut pilot = pairs().refusing(Duration::from_millis(50));
        let outcome = Scenario::new(curve(), vec![0.0; 6], 1.0, 1).run(&mut pilot);
        // The first two requests run until 30 ms. Two more would end at 60 ms, one alone ends at 50
        // ms.
        assert_eq!((outcome.rows, outcome.refused, outcome.late), (3, 3, 0));
    }

    #[test]
    fn a_worker_costs_from_its_order_on_and_serves_after_its_cold_start() {
        let arrivals = vec![1.0; 4];
        let fleet = Scenario {
            cold_start: Duration::from_secs(10),
            tick: Duration::from_secs(5),
            ..Scenario::new(curve(), arrivals, 20.0, 0)
        };
        let outcome = fleet.run(&mut pairs().following(vec![0, 1, 1, 0]));
        // The worker is ordered at 5 s and ready at 15 s, when the plan removes it again.
        assert_eq!(outcome.changes, [(0.0, 0), (5.0, 1), (15.0, 0)]);
        assert!((outcome.worker_seconds - 10.0).abs() < 0.1, "{}", outcome.worker_seconds);
    }
}
