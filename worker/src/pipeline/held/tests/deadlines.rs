//! Requests of different lengths under load, with and without padding: padding makes no request late.

use batchfleet_policy::{CostModel, LargestBatch, LengthSample, companions};

use super::*;
use crate::lengths::RowLengths;

const LIMIT: u32 = 64;

/// A batch takes 4 ms, 0.05 ms for each row, and for each row the time of its length.
struct Model {
    micros_per_byte: u64,
}

/// What a worker does next.
struct Worker<'a> {
    model: &'a Model,
    cost: CostModel,
    lengths: RowLengths,
    held: HeldJobs,
}

impl Model {
    fn takes(&self, rows: u32, length: u64) -> Duration {
        let row = 50 + self.micros_per_byte * length;
        Duration::from_micros(4000 + u64::from(rows) * row)
    }

    fn worker(&self, layout: Layout) -> Worker<'_> {
        let sample = |(rows, length)| LengthSample { rows, length, took: self.takes(rows, length) };
        let measured = [(1, 8), (16, 8), (1, 128), (16, 128), (1, 512), (16, 512)].map(sample);
        let lengths = RowLengths::of(&spec(LIMIT)).with_cost(&measured, 8);
        let profile = [1, 16, 64].map(|rows| (rows, self.takes(rows, 8)));
        let cost = CostModel::from_profile(&profile).unwrap();
        Worker { model: self, cost, lengths, held: HeldJobs::new(layout) }
    }
}

impl Worker<'_> {
    /// Runs these requests: (milliseconds of its arrival, length, milliseconds until its deadline).
    /// Returns for each whether it was answered in time.
    async fn run(mut self, requests: &[(u64, u64, u64)]) -> Vec<bool> {
        let began = Instant::now();
        let mut coming = requests.iter().enumerate().peekable();
        let mut in_time = vec![false; requests.len()];
        loop {
            let arrives = |at: u64| began + Duration::from_millis(at);
            if self.held.is_empty() {
                let Some(&(_, &(at, ..))) = coming.peek() else { return in_time };
                tokio::time::sleep_until(arrives(at)).await;
            }
            while let Some((index, &(at, length, left))) =
                coming.next_if(|&(_, &(at, ..))| arrives(at) <= Instant::now())
            {
                let deadline = arrives(at) + Duration::from_millis(left);
                let job = Delivery { deadline, ..delivery(index, 1, length) };
                self.held.extend([HeldJob::new(job, &self.lengths)]);
            }
            // Expired requests are answered without running.
            let jobs = self.held.take_all();
            let alive = jobs.into_iter().filter(|job| job.delivery.deadline > Instant::now());
            self.held.extend(alive);
            let units = self.lengths.cost().units(512) * f64::from(LIMIT);
            let largest = LargestBatch { rows: LIMIT, units };
            let choose = |waiting: &[WaitingRows]| {
                companions(&self.cost, &self.lengths.cost(), largest, waiting, 0)
            };
            let soon = Instant::now() + self.model.takes(LIMIT, 512) * 2;
            let urgency = Urgency { soon, unit: Duration::ZERO };
            let limit = BatchLimit { rows: LIMIT, units };
            let Some(batch) = self.held.take_batch(limit, urgency, choose) else { continue };
            tokio::time::advance(self.model.takes(batch.rows, batch.length())).await;
            for job in &batch.jobs {
                let index = usize::try_from(job.delivery.job.id.0).unwrap();
                in_time[index] = Instant::now() <= job.delivery.deadline;
            }
        }
    }
}

/// Requests at random times, `rate` per second, of the lengths of texts.
fn texts(rate: u64, seed: u64) -> Vec<(u64, u64, u64)> {
    const LENGTHS: [u64; 16] = [8, 14, 20, 24, 29, 34, 40, 46, 52, 60, 68, 83, 106, 146, 214, 512];
    let mut state = seed;
    let mut random = move |below: u64| {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    };
    let mut requests: Vec<_> = (0..rate * 3)
        .map(|_| (random(3000), LENGTHS[usize::try_from(random(16)).unwrap()], 60 + random(400)))
        .collect();
    requests.sort_unstable();
    requests
}

#[tokio::test(start_paused = true)]
async fn padding_makes_no_request_late_unless_the_load_is_too_high_and_then_more_are_in_time() {
    for micros_per_byte in [0, 2, 20] {
        let model = Model { micros_per_byte };
        for (rate, seed) in [100, 150, 200, 300, 500, 800].into_iter().zip(1..) {
            let requests = texts(rate, seed);
            let before = model.worker(layout()).run(&requests).await;
            let padded = model.worker(padded()).run(&requests).await;
            let count = |in_time: &[bool]| in_time.iter().filter(|&&in_time| in_time).count();
            let both = before.iter().zip(&padded);
            let late_by_padding = both.filter(|&(&before, &padded)| before && !padded).count();
            let case = format!(
                "{micros_per_byte} us, {rate}/s: {} of {} in time, {} padded, {late_by_padding} late by \
                 padding",
                count(&before),
                requests.len(),
                count(&padded),
            );
            assert!(count(&padded) >= count(&before), "{case}");
            if count(&before) == requests.len() {
                assert_eq!(late_by_padding, 0, "{case}");
            }
        }
    }
}
