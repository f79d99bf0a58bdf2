//! Runs a newly loaded model at growing batch sizes before it serves: the first run of a size is
//! slow, and the choice of N needs the batch times L(b).

mod rehearsal;
mod size_change;

use std::{collections::BTreeSet, num::NonZeroU32, time::Duration};

use batchfleet_broker::Tensor;
use batchfleet_policy::{Climb, ClimbEnd};
use tokio::time::Instant;
use tracing::{info, warn};

pub(crate) use self::rehearsal::Rehearsal;
use self::size_change::measure_size_change;
use crate::engine::{Engine, EngineError};

/// The batch sizes of a warm-up.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// The only sizes that the engine may run; empty for any.
    pub(crate) only: Vec<u32>,
    /// The maximum number of rows to try.
    pub(crate) up_to: u32,
    /// Whether the largest size is measured even if the climb would end below it.
    pub(crate) must_reach: bool,
}

/// The result of a warm-up.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// The measured batch times L(b), (rows, time), in order of rows.
    pub(crate) times: Vec<(u32, Duration)>,
    /// The largest size that may run: the last that ran without an error, or the largest of all if
    /// the climb had no time for it.
    pub(crate) usable: u32,
    /// How much longer a batch takes if the batch before had another size. Not included in `times`.
    pub(crate) size_change: Duration,
}

/// Measures `engine` at 1, 2, 4, ... rows, or at the only sizes that it may run, as far and as often
/// as `climb` decides.
///
/// If a size fails after smaller sizes succeeded, usually for lack of memory, the climb ends, and
/// the previous size is the largest usable size.
pub(crate) fn warm_up(
    engine: &mut dyn Engine,
    rehearsal: &mut dyn Rehearsal,
    sizes: &Sizes,
    mut climb: Climb,
) -> Result<Profile, EngineError> {
    let model = engine.spec().queue.to_string();
    let all = sizes_of(&sizes.only, sizes.up_to, engine.spec().max_batch);
    let largest = all.last().copied().unwrap_or_default();
    let size_change = match all[..] {
        [one, other, ..] if prepare(engine, rehearsal, &[one, other]).is_ok() => {
            measure_size_change(engine, rehearsal, [one, other])
        }
        _ => Duration::ZERO,
    };
    let mut usable = 1;
    let mut all = all.into_iter().peekable();
    // Sizes that seemed too slow may prove faster when they are repeated. Then the climb goes on.
    while let Some(&rows) = all.peek() {
        match climb.goes_on(rows) {
            Err(ClimbEnd::Time) if sizes.must_reach && rows < largest => {
                all.next();
                continue;
            }
            Err(_) if !sizes.must_reach && climb.needs_repetition() => {
                repeat(engine, rehearsal, (&mut climb, size_change))?;
                continue;
            }
            Err(end) if !sizes.must_reach => {
                info!(model, rows, reason = end.name(), "warm-up ends below this batch size");
                if end == ClimbEnd::Time {
                    usable = largest;
                }
                break;
            }
            _ => {}
        }
        let runs = match measure(engine, rehearsal, rows, (&climb, size_change)) {
            Ok(runs) => runs,
            Err(error) if climb.measured().is_empty() => return Err(error),
            Err(error) => {
                warn!(model, rows, %error, "warm-up run failed: limiting batch size");
                break;
            }
        };
        let times = runs.len();
        let took = climb.add(rows, runs);
        info!(model, rows, ?took, runs = times, "batch size warmed up");
        usable = rows;
        all.next();
    }
    while climb.needs_repetition() {
        repeat(engine, rehearsal, (&mut climb, size_change))?;
    }
    info!(model, times = ?climb.measured(), "batch times measured");
    if climb.measured().is_empty() {
        let most = engine.spec().max_rows();
        return Err(EngineError::failed(format!(
            "all batch sizes exceed the {most} rows that the model takes"
        )));
    }
    return_memory(engine, rehearsal, &climb)?;
    Ok(Profile { times: climb.measured().to_vec(), usable, size_change })
}

/// Prepares the engine for batches of these sizes.
fn prepare(
    engine: &mut dyn Engine,
    rehearsal: &dyn Rehearsal,
    sizes: &[u32],
) -> Result<(), EngineError> {
    sizes.iter().try_for_each(|&rows| {
        let alike = |one: &[Tensor], other: &[Tensor]| rehearsal.alike(rows, one, other);
        engine.prepare(&rehearsal.inputs(rows), rows, &alike)
    })
}

/// Returns the memory of all sizes but the largest: an arena that grew with the batches keeps blocks
/// that are too small for larger ones.
fn return_memory(
    engine: &mut dyn Engine,
    rehearsal: &dyn Rehearsal,
    climb: &Climb,
) -> Result<(), EngineError> {
    if let [.., (rows, _)] = climb.measured()
        && engine.return_memory(&rehearsal.inputs(1))?
    {
        engine.run(rehearsal.inputs(*rows), *rows)?;
    }
    Ok(())
}

/// The sizes to measure: 1, 2, 4, ... and the largest size itself; only 1 for a model that does not
/// batch. If `only` is not empty, its sizes that the model can run, up to the first size that holds
/// `up_to` rows.
fn sizes_of(only: &[u32], up_to: u32, max_batch: Option<NonZeroU32>) -> Vec<u32> {
    let Some(max_batch) = max_batch.map(NonZeroU32::get) else { return vec![1] };
    if !only.is_empty() {
        let only: BTreeSet<u32> = only.iter().copied().filter(|&rows| rows <= max_batch).collect();
        let enough = only.range(up_to..).next().copied().unwrap_or(max_batch);
        return only.into_iter().take_while(|&rows| rows <= enough).collect();
    }
    let max_batch = max_batch.min(up_to);
    let mut sizes: Vec<u32> = std::iter::successors(Some(1_u32), |rows| rows.checked_mul(2))
        .take_while(|&rows| rows < max_batch)
        .collect();
    sizes.push(max_batch.max(1));
    sizes
}

/// The times of batches of `rows` rows, as many as `climb` needs. The first run changes the size.
fn measure(
    engine: &mut dyn Engine,
    rehearsal: &mut dyn Rehearsal,
    rows: u32,
    (climb, size_change): (&Climb, Duration),
) -> Result<Vec<Duration>, EngineError> {
    prepare(engine, rehearsal, &[rows])?;
    let inputs = rehearsal.inputs(rows);
    let (mut runs, mut outputs) = (Vec::new(), Vec::new());
    while !climb.suffice(rows, &runs) {
        let began = Instant::now();
        outputs = engine.run(inputs.clone(), rows)?;
        let change = if runs.is_empty() { size_change } else { Duration::ZERO };
        runs.push(began.elapsed().saturating_sub(change));
    }
    rehearsal.check(rows, outputs)?;
    Ok(runs)
}

/// Runs every measured size once more.
fn repeat(
    engine: &mut dyn Engine,
    rehearsal: &dyn Rehearsal,
    (climb, size_change): (&mut Climb, Duration),
) -> Result<(), EngineError> {
    for index in 0..climb.measured().len() {
        let (rows, _) = climb.measured()[index];
        let inputs = rehearsal.inputs(rows);
        let began = Instant::now();
        engine.run(inputs, rows)?;
        climb.repeat(index, began.elapsed().saturating_sub(size_change));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use batchfleet_broker::{Datatype, ModelSpec, QueueName, TensorSpec};

    use super::*;
    use crate::engine::Alike;

    /// An engine that is slow from one size on and fails from another.
    struct Fake {
        spec: ModelSpec,
        /// Whether memory can be returned, and the rows of all preparations and runs.
        returns_memory: bool,
        log: Vec<String>,
        slow_from: u32,
        /// Whether a slow run takes this time for each row.
        slow_per_row: bool,
        fails_from: u32,
    }

    /// Runs no inputs, and finds fault with all sizes from one size on.
    struct Faults(u32);

    impl Rehearsal for Faults {
        fn inputs(&self, _rows: u32) -> Vec<Tensor> {
            Vec::new()
        }

        fn alike(&self, _rows: u32, one: &[Tensor], other: &[Tensor]) -> bool {
            one == other
        }

        fn check(&mut self, rows: u32, _outputs: Vec<Tensor>) -> Result<(), EngineError> {
            if rows < self.0 { Ok(()) } else { Err(EngineError::failed("no rows")) }
        }
    }

    const SLOW: Duration = Duration::from_millis(60);

    fn fake(max_batch: u32, slow_from: u32, fails_from: u32) -> Fake {
        let input = TensorSpec::new("X", Datatype::Fp32, [-1, -1, 3]);
        let spec = ModelSpec {
            queue: QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: NonZeroU32::new(max_batch),
            inputs: vec![input],
            outputs: Vec::new(),
        };
        Fake {
            spec,
            returns_memory: false,
            log: Vec::new(),
            slow_from,
            slow_per_row: false,
            fails_from,
        }
    }

    impl Engine for Fake {
        fn spec(&self) -> &ModelSpec {
            &self.spec
        }

        fn serve_singly(&mut self) {
            self.spec.max_batch = None;
        }

        fn provider(&self) -> &'static str {
            "cpu"
        }

        fn prepare(
            &mut self,
            _inputs: &[Tensor],
            rows: u32,
            _alike: Alike<'_>,
        ) -> Result<(), EngineError> {
            self.log.push(format!("prepare {rows}"));
            Ok(())
        }

        fn return_memory(&mut self, _inputs: &[Tensor]) -> Result<bool, EngineError> {
            self.log.push("return".to_owned());
            Ok(self.returns_memory)
        }

        fn run(&mut self, inputs: Vec<Tensor>, rows: u32) -> Result<Vec<Tensor>, EngineError> {
            self.log.push(format!("run {rows}"));
            if rows >= self.fails_from {
                return Err(EngineError::failed("out of memory"));
            }
            if rows >= self.slow_from {
                sleep(SLOW * if self.slow_per_row { rows } else { 1 });
            }
            Ok(inputs)
        }
    }

    /// The largest measured size.
    fn largest(profile: &Profile) -> u32 {
        profile.times.last().unwrap().0
    }

    fn up_to(up_to: u32, must_reach: bool) -> Sizes {
        Sizes { only: Vec::new(), up_to, must_reach }
    }

    /// A climb for a latency target of half a slow run.
    fn climb() -> Climb {
        Climb::new(SLOW / 4, Duration::from_secs(10))
    }

    #[test]
    fn climbs_in_powers_of_two_to_the_largest_size_itself() {
        for (max_batch, expected) in
            [(0, vec![1]), (1, vec![1]), (8, vec![1, 2, 4, 8]), (6, vec![1, 2, 4, 6])]
        {
            let limit = NonZeroU32::new(max_batch);
            assert_eq!(sizes_of(&[], u32::MAX, limit), expected, "{max_batch}");
        }
        assert_eq!(sizes_of(&[], 5, NonZeroU32::new(64)), [1, 2, 4, 5]);
    }

    #[test]
    fn runs_only_the_sizes_that_are_allowed() {
        for (up_to, max_batch, expected) in [
            (u32::MAX, 64, vec![4, 16, 32]),
            (u32::MAX, 20, vec![4, 16]),
            (5, 64, vec![4, 16]),
            (4, 64, vec![4]),
            (99, 0, vec![1]),
            (99, 3, vec![]),
        ] {
            let limit = NonZeroU32::new(max_batch);
            assert_eq!(sizes_of(&[16, 4, 32, 16], up_to, limit), expected, "{up_to} {max_batch}");
        }
    }

    #[test]
    fn ends_where_larger_sizes_gain_nothing_unless_they_must_run() {
        // From two rows on, a batch takes as long as its rows one by one.
        let mut engine = Fake { slow_per_row: true, ..fake(64, 2, 99) };
        let profile = warm_up(&mut engine, &mut Faults(99), &up_to(64, false), climb()).unwrap();
        assert!(profile.usable <= 8 && largest(&profile) == profile.usable, "{profile:?}");
        let by_hand = warm_up(&mut engine, &mut Faults(99), &up_to(16, true), climb()).unwrap();
        assert_eq!((by_hand.usable, largest(&by_hand)), (16, 16));
    }

    #[test]
    fn climbs_beyond_the_target_where_larger_sizes_gain() {
        let mut engine = fake(32, 1, 99);
        let profile = warm_up(&mut engine, &mut Faults(99), &up_to(64, false), climb()).unwrap();
        assert_eq!((profile.usable, largest(&profile)), (32, 32));
    }

    #[test]
    fn sizes_without_time_are_left_for_later() {
        // One row takes 60 ms, and 72 ms count as hung: two would take 120 ms.
        let climb = || Climb::new(SLOW / 4, SLOW * 6 / 5);
        let mut engine = Fake { slow_per_row: true, ..fake(64, 1, 99) };
        let profile = warm_up(&mut engine, &mut Faults(99), &up_to(64, false), climb()).unwrap();
        assert_eq!((profile.usable, largest(&profile)), (64, 1));
        let by_hand = warm_up(&mut engine, &mut Faults(99), &up_to(4, true), climb()).unwrap();
        assert_eq!((by_hand.usable, largest(&by_hand)), (4, 4));
    }

    #[test]
    fn stays_below_a_size_that_fails_but_one_row_must_run() {
        let profile =
            warm_up(&mut fake(64, 99, 16), &mut Faults(99), &up_to(64, false), climb()).unwrap();
        assert_eq!(profile.usable, 8);
        assert!(
            warm_up(&mut fake(64, 99, 1), &mut Faults(99), &up_to(64, false), climb()).is_err()
        );
    }

    #[test]
    fn stays_below_a_size_whose_outputs_fail_the_check() {
        let profile =
            warm_up(&mut fake(64, 99, 99), &mut Faults(16), &up_to(64, false), climb()).unwrap();
        assert_eq!(profile.usable, 8);
        assert!(
            warm_up(&mut fake(64, 99, 99), &mut Faults(1), &up_to(64, false), climb()).is_err()
        );
    }

    #[test]
    fn every_size_is_prepared_before_it_is_measured() {
        let mut engine = fake(4, 99, 99);
        warm_up(&mut engine, &mut Faults(99), &up_to(4, true), climb()).unwrap();
        for rows in [1, 2, 4] {
            let at =
                |what: &str| engine.log.iter().position(|line| *line == format!("{what} {rows}"));
            assert!(at("prepare").unwrap() < at("run").unwrap(), "{:?}", engine.log);
        }
        assert_eq!(engine.log.last().unwrap(), "return");
    }

    #[test]
    fn memory_that_was_returned_is_taken_again_by_the_largest_size() {
        let mut engine = Fake { returns_memory: true, ..fake(8, 99, 99) };
        warm_up(&mut engine, &mut Faults(99), &up_to(8, true), climb()).unwrap();
        assert_eq!(engine.log[engine.log.len() - 2..], ["return", "run 8"]);
    }
}
