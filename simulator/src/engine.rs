//! A fleet in simulated time: one queue, workers that take batches from it, and what becomes of the
//! requests. Whatever is decided, a [`Pilot`] decides.

mod workers;

use std::{sync::Arc, time::Duration};

use batchfleet_policy::{Counts, Observation};

use crate::{curve::Curve, outcome::Outcome};
use workers::{Event, Workers};

/// Decides for a simulated fleet.
pub trait Pilot {
    /// What an idle worker does with what waits.
    fn pull(&mut self, pull: &Pull<'_>) -> Order;

    /// What it is told of each batch that has run.
    fn ran(&mut self, worker: usize, rows: u32, took: Duration);

    /// How many workers there should be from now on; `None` to leave it.
    fn scale(&mut self, now: Duration, seen: &Observation) -> Option<u32>;
}

/// An idle worker in front of a queue.
#[derive(Debug)]
pub struct Pull<'a> {
    /// Seconds since the start.
    pub now: f64,
    /// Which worker.
    pub worker: usize,
    /// Workers that serve.
    pub workers: u32,
    /// When those that wait arrived, oldest first; never empty.
    pub waiting: &'a [f64],
    /// Requests that have arrived since the start.
    pub arrived: u64,
}

/// What it is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Refuse so many of the oldest.
    pub refuse: u32,
    /// Then run so many.
    pub rows: u32,
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What the model really costs.
    pub curve: Curve,
    /// From when on, in seconds, it takes so many times as long.
    pub slower: Option<(f64, f64)>,
    /// When requests arrive, in seconds, rising.
    pub arrivals: Arc<[f64]>,
    /// How long, in seconds. What waits at the end is served nevertheless.
    pub duration: f64,
    /// A request that takes longer is late.
    pub slo: Duration,
    /// Workers at the start.
    pub workers: u32,
    /// From the order of a worker to its first batch.
    pub cold_start: Duration,
    /// How often the number of workers is decided.
    pub tick: Duration,
}

impl Scenario {
    /// So many workers, all there from the start, for the load's whole duration.
    pub fn new(curve: Curve, arrivals: Vec<f64>, duration: f64, workers: u32) -> Self {
        Self {
            curve,
            slower: None,
            arrivals: arrivals.into(),
            duration,
            slo: Duration::from_millis(100),
            workers,
            cold_start: Duration::ZERO,
            tick: Duration::from_secs(5),
        }
    }

    /// Plays it.
    pub fn run(&self, pilot: &mut dyn Pilot) -> Outcome {
        let mut run = Run {
            scenario: self,
            workers: Workers::new(self.workers),
            outcome: Outcome::new(self.duration, self.slo, self.workers),
            head: 0,
            arrived: 0,
            next_tick: 0.0,
            now: 0.0,
        };
        while run.step(pilot) {}
        run.outcome.end(self.duration);
        run.outcome
    }
}

/// A scenario being played. What waits are the arrivals from `head` up to `arrived`.
struct Run<'a> {
    scenario: &'a Scenario,
    workers: Workers,
    outcome: Outcome,
    head: usize,
    arrived: usize,
    next_tick: f64,
    now: f64,
}

impl Run<'_> {
    /// Goes to the next thing that happens; false if nothing will.
    fn step(&mut self, pilot: &mut dyn Pilot) -> bool {
        let arrivals = &self.scenario.arrivals;
        let arrival = arrivals.get(self.head).filter(|_| self.workers.has_idle());
        let tick = Some(self.next_tick).filter(|&tick| tick < self.scenario.duration);
        let event = self.workers.next_event();
        let times = [arrival.copied(), tick, event];
        let Some(next) = times.into_iter().flatten().min_by(f64::total_cmp) else {
            return false;
        };
        self.now = self.now.max(next);
        while arrivals.get(self.arrived).is_some_and(|&at| at <= self.now) {
            self.outcome.offered(arrivals[self.arrived]);
            self.arrived += 1;
        }
        while let Some(event) = self.workers.due(self.now) {
            if let Event::Ran { worker, rows, began, ended, first } = event {
                let batch = &arrivals[first..first + rows as usize];
                for &at in batch {
                    self.outcome.answered(at, ended);
                }
                pilot.ran(worker, rows, Duration::from_secs_f64(ended - began));
            }
        }
        if tick.is_some_and(|tick| tick <= self.now) {
            self.next_tick += self.scenario.tick.as_secs_f64();
            self.scale(pilot);
        }
        while self.head < self.arrived
            && let Some(worker) = self.workers.idle()
        {
            self.pull(worker, pilot);
        }
        true
    }

    /// Lets an idle worker refuse and take what its pilot says, but at least one row.
    fn pull(&mut self, worker: usize, pilot: &mut dyn Pilot) {
        let waiting = &self.scenario.arrivals[self.head..self.arrived];
        let order = pilot.pull(&Pull {
            now: self.now,
            worker,
            workers: self.workers.ready(),
            waiting,
            arrived: self.arrived as u64,
        });
        let refused = waiting.len().min(order.refuse as usize);
        for &at in &waiting[..refused] {
            self.outcome.refused(at);
        }
        self.head += refused;
        let left = u32::try_from(waiting.len() - refused).unwrap_or(u32::MAX);
        if left == 0 {
            return;
        }
        let rows = order.rows.clamp(1, left);
        let slower = self.scenario.slower.filter(|&(from, _)| self.now >= from);
        let took = self.scenario.curve.seconds(rows) * slower.map_or(1.0, |(_, factor)| factor);
        self.workers.run(worker, self.head, rows, (self.now, self.now + took));
        self.outcome.ran(rows);
        self.head += rows as usize;
    }

    fn scale(&mut self, pilot: &mut dyn Pilot) {
        let seen = Observation {
            counts: Counts {
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

#[cfg(test)]
mod tests {
    use batchfleet_policy::BatchMode;

    use super::*;
    use crate::pilot::Ours;

    const SLO: Duration = Duration::from_millis(100);

    /// Alone 20 ms, two together 30 ms.
    fn curve() -> Curve {
        Curve::affine(10.0, 10.0)
    }

    fn pairs() -> Ours {
        Ours::new(curve().cost(8).unwrap(), 8, SLO).with_batch(BatchMode::Fixed(2))
    }

    #[test]
    fn batches_run_one_after_the_other_and_each_request_waits_for_its_own() {
        let arrivals = vec![0.0, 0.0, 0.0, 0.1];
        let outcome = Scenario::new(curve(), arrivals, 1.0, 1).run(&mut pairs());
        assert_eq!((outcome.batches, outcome.rows, outcome.late), (3, 4, 0));
        // 30 ms twice, 50 ms for the third, 20 ms for the last.
        assert!((outcome.latency(1.0) - 0.050).abs() < 1e-4);
        assert!((outcome.latency(0.5) - 0.030).abs() < 1e-4);
        assert!((outcome.worker_seconds - 1.0).abs() < 1e-9);
    }

    #[test]
    fn two_workers_share_what_waits() {
        let outcome = Scenario::new(curve(), vec![0.0; 4], 1.0, 2).run(&mut pairs());
        assert!((outcome.latency(1.0) - 0.030).abs() < 1e-4);
        assert!((outcome.worker_seconds - 2.0).abs() < 1e-9);
    }

    #[test]
    fn whoever_cannot_be_in_time_is_refused_before_anything_runs_in_vain() {
        let mut pilot = pairs().refusing(Duration::from_millis(50));
        let outcome = Scenario::new(curve(), vec![0.0; 6], 1.0, 1).run(&mut pilot);
        // Two run until 30 ms. Another pair would end at 60, one alone ends at 50: three must go.
        assert_eq!((outcome.rows, outcome.refused, outcome.late), (3, 3, 0));
    }

    #[test]
    fn a_worker_costs_from_its_order_and_serves_from_the_end_of_its_cold_start() {
        let arrivals = vec![1.0; 4];
        let fleet = Scenario {
            cold_start: Duration::from_secs(10),
            ..Scenario::new(curve(), arrivals, 20.0, 0)
        };
        let outcome = fleet.run(&mut pairs().following(vec![0, 1, 1, 0]));
        // Ordered at 5 s, there at 15 s, when the plan wants nobody any more.
        assert_eq!(outcome.changes, [(0.0, 0), (5.0, 1), (15.0, 0)]);
        assert!((outcome.worker_seconds - 10.0).abs() < 0.1, "{}", outcome.worker_seconds);
    }
}
