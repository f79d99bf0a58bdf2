use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

use batchfleet_broker::{Datatype, ModelSpec, QueueName, TensorSpec};

use super::*;
use crate::{engine::EngineError, graph::Graph, padding::Padding, tensors, warmup::Rehearsal};

/// The rows of the output for the rows of the input.
type Compute = dyn FnMut(&[Vec<f32>]) -> Vec<Vec<f32>>;

/// A model of one input and one output of floats, computed from all rows at once.
struct Fake {
    spec: ModelSpec,
    compute: Box<Compute>,
    /// The only values that the model takes.
    takes: fn(&Tensor) -> bool,
}

fn fake(dims: &[i64], compute: impl FnMut(&[Vec<f32>]) -> Vec<Vec<f32>> + 'static) -> Fake {
    let spec = ModelSpec {
        queue: QueueName::new("m", 1),
        platform: String::new(),
        backend: String::new(),
        max_batch: NonZeroU32::new(64),
        inputs: vec![TensorSpec::new("X", Datatype::Fp32, dims)],
        outputs: vec![TensorSpec::new("Y", Datatype::Fp32, [-1, -1])],
    };
    Fake { spec, compute: Box::new(compute), takes: |_| true }
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

    fn run(&mut self, inputs: Vec<Tensor>, rows: u32) -> Result<Vec<Tensor>, EngineError> {
        let input = &inputs[0];
        if !(self.takes)(input) {
            return Err(EngineError::failed("refused"));
        }
        assert_eq!(input.shape[0], u64::from(rows));
        let numbers: Vec<f32> =
            input.data.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect();
        let rows: Vec<Vec<f32>> =
            numbers.chunks(numbers.len() / rows as usize).map(<[f32]>::to_vec).collect();
        let rows = (self.compute)(&rows);
        let shape = vec![rows.len() as u64, rows[0].len() as u64];
        let data: Vec<u8> = rows.concat().into_iter().flat_map(f32::to_le_bytes).collect();
        let (name, datatype) = ("Y".to_owned(), Datatype::Fp32);
        Ok(vec![Tensor { name, datatype, shape, data: data.into() }])
    }
}

fn verdict(engine: &mut Fake, sizes: &[u32], scope: Scope) -> Result<(), Objection> {
    let hints = Hints {
        graph: &Graph::default(),
        shapes: &BTreeMap::new(),
        samples: &[],
        sizes,
        only_zeros: false,
    };
    let rows = TestRows::find(engine, &hints).unwrap();
    assert!(!rows.are_alike());
    prove(engine, &hints, &rows, scope)
}

/// Applies `f` to all numbers.
fn each(rows: &[Vec<f32>], f: impl Fn(f32) -> f32) -> Vec<Vec<f32>> {
    rows.iter().map(|row| row.iter().map(|&number| f(number)).collect()).collect()
}

fn count<T>(items: &[T]) -> f32 {
    f32::from(u16::try_from(items.len()).unwrap())
}

fn largest(rows: &[Vec<f32>]) -> f32 {
    rows.iter().flatten().map(|number| number.abs()).fold(0.0, f32::max)
}

#[test]
fn independent_rows_are_proven() {
    let sum = |rows: &[Vec<f32>]| rows.iter().map(|row| vec![row.iter().sum()]).collect();
    for sizes in [&[][..], &[4, 8], &[2]] {
        assert!(verdict(&mut fake(&[-1, 5], sum), sizes, Scope::Values).is_ok(), "{sizes:?}");
    }
}

#[test]
fn noise_of_the_kernels_is_no_influence() {
    // Another kernel for more than one row, with other noise; and numbers that grow with the noise.
    let noisy = |rows: &[Vec<f32>]| {
        let noise = if rows.len() > 1 { 1.0 + 1e-4 } else { 1.0 };
        each(rows, |number| number * noise)
    };
    assert!(verdict(&mut fake(&[-1, 5], noisy), &[], Scope::Values).is_ok());
    let wrong = |rows: &[Vec<f32>]| each(rows, |number| number * count(rows));
    assert!(verdict(&mut fake(&[-1, 5], wrong), &[], Scope::Values).is_err());
}

#[test]
fn rows_that_influence_each_other_are_found() {
    let mean = |rows: &[Vec<f32>]| {
        let mean = rows.iter().flatten().sum::<f32>() / count(&rows.concat());
        each(rows, |number| number - mean)
    };
    let clipped = |rows: &[Vec<f32>]| {
        let floor = largest(rows).log10() - 8.0;
        each(rows, |number| number.abs().log10().max(floor))
    };
    let quantised = |rows: &[Vec<f32>]| {
        let step = (largest(rows) / 127.0).max(1e-9);
        each(rows, |number| (number / step).round() * step)
    };
    let cumulative = |rows: &[Vec<f32>]| {
        let mut sum = 0.0;
        rows.iter()
            .map(|row| {
                sum += row[0];
                vec![sum]
            })
            .collect()
    };
    let sorted = |rows: &[Vec<f32>]| {
        let mut rows = rows.to_vec();
        rows.sort_by(|one, other| one[0].total_cmp(&other[0]));
        rows
    };
    let tiny = move |rows: &[Vec<f32>]| each(&mean(rows), |number| number * 1e-9);
    let checks: [(&str, Fake); 6] = [
        ("mean", fake(&[-1, 5], mean)),
        ("tiny", fake(&[-1, 5], tiny)),
        ("clipped", fake(&[-1, 5], clipped)),
        ("quantised", fake(&[-1, 5], quantised)),
        ("cumulative", fake(&[-1, 5], cumulative)),
        ("sorted", fake(&[-1, 5], sorted)),
    ];
    for (name, mut engine) in checks {
        for sizes in [&[][..], &[2]] {
            let objection = verdict(&mut engine, sizes, Scope::Values).unwrap_err();
            assert!(matches!(&objection, Objection::Mixed(found) if !found.is_shape), "{name}");
            assert!(verdict(&mut engine, sizes, Scope::Shapes).is_ok(), "{name}");
        }
    }
}

#[test]
fn padding_that_changes_a_row_is_found() {
    // Rows of zeros take part in the minimum.
    let least = |rows: &[Vec<f32>]| {
        let least = rows.iter().flatten().copied().fold(f32::MAX, f32::min);
        each(rows, |number| number - least)
    };
    assert!(verdict(&mut fake(&[-1, 5], least), &[8], Scope::Values).is_err());
}

#[test]
fn an_output_as_long_as_the_longest_row_is_found_even_if_values_are_not_compared() {
    let padded = |rows: &[Vec<f32>]| {
        let length = if largest(rows) > 10.0 { 9 } else { 3 };
        rows.iter().map(|_| vec![0.0; length]).collect()
    };
    for scope in [Scope::Values, Scope::Shapes] {
        let objection = verdict(&mut fake(&[-1, 5], padded), &[], scope).unwrap_err();
        assert!(matches!(objection, Objection::Mixed(found) if found.is_shape));
    }
}

/// Splits texts at their spaces, and pads to the text with the most words.
struct Splitter(ModelSpec);

impl Engine for Splitter {
    fn spec(&self) -> &ModelSpec {
        &self.0
    }

    fn serve_singly(&mut self) {
        self.0.max_batch = None;
    }

    fn provider(&self) -> &'static str {
        "cpu"
    }

    fn run(&mut self, inputs: Vec<Tensor>, rows: u32) -> Result<Vec<Tensor>, EngineError> {
        let texts: Result<Vec<&[u8]>, _> = tensors::strings(&inputs[0].data).collect();
        let words = |text: &&[u8]| text.split(|&byte| byte == b' ').count();
        let most = texts.unwrap().iter().map(words).max().unwrap();
        let shape = vec![u64::from(rows), most as u64];
        let data = vec![0; rows as usize * most].into();
        Ok(vec![Tensor { name: "Y".to_owned(), datatype: Datatype::Uint8, shape, data }])
    }
}

#[test]
fn texts_of_different_lengths_are_tried() {
    let Fake { spec, .. } = fake(&[-1], <[Vec<f32>]>::to_vec);
    let inputs = vec![TensorSpec::new("X", Datatype::Bytes, [-1])];
    let mut engine = Splitter(ModelSpec { inputs, ..spec });
    let hints = Hints {
        graph: &Graph::default(),
        shapes: &BTreeMap::new(),
        samples: &[],
        sizes: &[],
        only_zeros: false,
    };
    let rows = TestRows::find(&mut engine, &hints).unwrap();
    let objection = prove(&mut engine, &hints, &rows, Scope::Values).unwrap_err();
    assert!(matches!(objection, Objection::Mixed(found) if found.is_shape));
}

#[test]
fn random_numbers_are_told_from_influence() {
    let mut drawn = 0.0;
    let random = move |rows: &[Vec<f32>]| {
        drawn += 1.0;
        each(rows, |number| number + drawn)
    };
    let objection = verdict(&mut fake(&[-1, 5], random), &[], Scope::Values).unwrap_err();
    assert!(matches!(objection, Objection::Random(_)), "{objection}");
}

#[test]
fn a_tie_that_other_rows_do_not_confirm_is_no_influence() {
    let mut differed = false;
    let once = move |rows: &[Vec<f32>]| {
        let is_first = rows.len() == 4 && !std::mem::replace(&mut differed, rows.len() == 4);
        each(rows, |number| if is_first { number + 1.0 } else { number })
    };
    assert!(verdict(&mut fake(&[-1, 5], once), &[], Scope::Values).is_ok());
}

#[test]
fn sizes_of_open_dimensions_are_tried_until_one_runs() {
    let mut engine = fake(&[-1, -1], <[Vec<f32>]>::to_vec);
    engine.takes = |input| input.shape[1] >= 32;
    let graph = Graph::default();
    let hints = Hints {
        graph: &graph,
        shapes: &BTreeMap::new(),
        samples: &[],
        sizes: &[],
        only_zeros: false,
    };
    let rows = TestRows::find(&mut engine, &hints).unwrap();
    assert_eq!(rows.inputs(3)[0].shape, [3, 32]);
    let given = BTreeMap::from([("X".to_owned(), vec![50])]);
    let hints = Hints { shapes: &given, ..hints };
    assert_eq!(TestRows::find(&mut engine, &hints).unwrap().inputs(1)[0].shape, [1, 50]);
    engine.takes = |_| false;
    assert_eq!(
        TestRows::find(&mut engine, &hints).unwrap_err().to_string(),
        "the model failed: refused"
    );
}

#[test]
fn a_model_that_leaves_out_some_rows_does_not_keep_rows() {
    let hints = Hints {
        graph: &Graph::default(),
        shapes: &BTreeMap::new(),
        samples: &[],
        sizes: &[],
        only_zeros: false,
    };
    for least in [0.0, 2.0] {
        let filtered = move |rows: &[Vec<f32>]| {
            let kept: Vec<_> = rows.iter().filter(|row| row[0].abs() < least).cloned().collect();
            if kept.is_empty() { vec![vec![0.0; 5]; 2] } else { kept }
        };
        let found = TestRows::find(&mut fake(&[-1, 5], filtered), &hints);
        assert!(matches!(found, Err(EngineError::Uneven(_))), "{least}");
    }
}

#[test]
fn rows_that_a_model_refuses_are_replaced_by_others() {
    // A table of which 1000 is no row.
    let mut engine = fake(&[-1, 5], <[Vec<f32>]>::to_vec);
    engine.takes = |input| {
        let numbers = input.data.as_chunks().0.iter().copied().map(f32::from_le_bytes);
        numbers.map(f32::abs).fold(0.0, f32::max) <= 1.0
    };
    let hints = Hints {
        graph: &Graph::default(),
        shapes: &BTreeMap::new(),
        samples: &[],
        sizes: &[],
        only_zeros: false,
    };
    assert!(TestRows::find(&mut engine, &hints).unwrap().len() == 4);
}

#[test]
fn a_batch_that_fails_is_an_objection() {
    let mut engine = fake(&[-1, 5], <[Vec<f32>]>::to_vec);
    engine.takes = |input| input.shape[0] == 1;
    let objection = verdict(&mut engine, &[], Scope::Values).unwrap_err();
    assert!(matches!(objection, Objection::Fails { rows: 4, .. }), "{objection}");
}

#[test]
fn a_size_that_gives_garbage_is_found_in_the_warm_up() {
    for garbage_at in [4, 8, 64] {
        let hints = Hints {
            graph: &Graph::default(),
            shapes: &BTreeMap::new(),
            samples: &[],
            sizes: &[],
            only_zeros: false,
        };
        let compute = move |rows: &[Vec<f32>]| {
            each(rows, |number| if rows.len() == garbage_at { f32::NAN } else { number })
        };
        let mut engine = fake(&[-1, 5], compute);
        let mut rows = TestRows::find(&mut engine, &hints).unwrap();
        for size in [1, 2, 4, 8] {
            let outputs = engine.run(rows.inputs(size), size).unwrap();
            rows.check(size, outputs).unwrap();
        }
        assert_eq!(rows.take_mismatch().is_some(), garbage_at < 64, "{garbage_at} rows");
    }
}

#[test]
fn batches_hold_all_rows_in_two_orders_and_some_of_them() {
    assert_eq!(batches(4, 64), [vec![0, 1, 2, 3], vec![3, 2, 1, 0], vec![3, 1]]);
    assert_eq!(batches(4, 3), [vec![0, 1, 2], vec![3, 2, 1], vec![3, 1]]);
    assert_eq!(batches(2, 64), [[1, 0]]);
    assert!(batches(1, 64).is_empty());
}

/// Whether padding the rows of a model with zeros is proven.
fn padding_verdict(engine: &mut Fake) -> Result<(), Objection> {
    let graph = Graph::default();
    let hints = Hints {
        graph: &graph,
        shapes: &BTreeMap::new(),
        samples: &[],
        sizes: &[],
        only_zeros: false,
    };
    let rows = TestRows::find(engine, &hints).unwrap();
    let parameters = [("pad".to_owned(), "X:1=0".to_owned())].into();
    let padding = Padding::declared(&parameters, engine.spec(), &graph).unwrap().unwrap();
    prove_padding(engine, &hints, &rows, &Arc::new(padding))
}

#[test]
fn padding_is_proven_if_the_model_ignores_it() {
    let sum = |rows: &[Vec<f32>]| rows.iter().map(|row| vec![row.iter().sum()]).collect();
    assert!(padding_verdict(&mut fake(&[-1, -1], sum)).is_ok());
    let mean = |rows: &[Vec<f32>]| {
        rows.iter().map(|row| vec![row.iter().sum::<f32>() / count(row)]).collect()
    };
    let objection = padding_verdict(&mut fake(&[-1, -1], mean)).unwrap_err();
    assert!(matches!(&objection, Objection::Padded(mismatch) if !mismatch.is_shape), "{objection}");
}

#[test]
fn outputs_that_follow_the_length_must_be_cut() {
    let doubled = |rows: &[Vec<f32>]| each(rows, |number| 2.0 * number);
    let objection = padding_verdict(&mut fake(&[-1, -1], doubled)).unwrap_err();
    assert!(matches!(&objection, Objection::Padded(mismatch) if mismatch.is_shape), "{objection}");
}

#[test]
fn a_model_of_one_length_proves_nothing_about_padding() {
    let sum = |rows: &[Vec<f32>]| rows.iter().map(|row| vec![row.iter().sum()]).collect();
    let mut engine = fake(&[-1, -1], sum);
    engine.takes = |input| input.shape[1] == 8;
    assert!(matches!(padding_verdict(&mut engine), Err(Objection::OneLength)));
}
