//! The golden check: in a batch of identical rows, each row's outputs must equal the outputs of a
//! run with a single row. Devices that compute garbage and models that mix rows fail the check.

use std::{collections::BTreeMap, fmt};

use batchfleet_broker::{Datatype, ModelSpec, Tensor, TensorSpec};
use half::{bf16, f16};

use crate::{engine::EngineError, layout::Layout, tensors, warmup::Rehearsal};

/// Tolerance relative to the largest number of the tensor. Kernels differ by batch size, and sum in
/// a different order with as little as 8 bits of precision.
const TOLERANCE: f64 = 0.02;
/// Minimum absolute tolerance: 1 for integers, nearly 0 for floats.
const INTEGER_STEP: f64 = 1.0;
const FLOAT_STEP: f64 = 1e-3;

/// An output that differs between a batch and a single row.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    output: String,
    rows: u32,
    problem: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, rows, problem } = self;
        write!(
            f,
            "output {output:?} of the same input differs in a batch of {rows} rows: {problem}"
        )
    }
}

/// The golden check of one model, on rows of zeros.
#[derive(Debug)]
pub(crate) struct GoldenCheck {
    inputs: Vec<TensorSpec>,
    layout: Layout,
    /// The open dimensions of each input, without the batch dimension; missing dimensions are 1.
    shapes: BTreeMap<String, Vec<u64>>,
    /// The outputs of a single row.
    golden: Option<Vec<Tensor>>,
    mismatch: Option<Mismatch>,
}

impl GoldenCheck {
    /// A check that has seen no outputs.
    pub(crate) fn new(model: &ModelSpec, shapes: &BTreeMap<String, Vec<u64>>) -> Self {
        let (inputs, layout) = (model.inputs.clone(), Layout::of(model));
        Self { inputs, layout, shapes: shapes.clone(), golden: None, mismatch: None }
    }

    /// The first output that differed between a single row and a batch.
    pub(crate) fn mismatch(self) -> Option<Mismatch> {
        self.mismatch
    }
}

impl Rehearsal for GoldenCheck {
    fn inputs(&self, rows: u32) -> Vec<Tensor> {
        let dims = |name: &str| self.shapes.get(name).map(Vec::as_slice).unwrap_or_default();
        let zeros = |spec: &TensorSpec| self.layout.zeros(spec, rows, dims(&spec.name));
        self.inputs.iter().map(zeros).collect()
    }

    fn check(&mut self, rows: u32, outputs: Vec<Tensor>) -> Result<(), EngineError> {
        // Fails if the outputs do not hold the batch's rows.
        let outputs = self.layout.single_rows(rows).split(outputs)?;
        let golden = self.golden.get_or_insert_with(|| outputs[0].clone());
        if self.mismatch.is_none() {
            self.mismatch = compare(golden, &outputs).err();
        }
        Ok(())
    }
}

/// Compares the outputs `many` of a batch of identical rows with the outputs `one` of a single row.
fn compare(one: &[Tensor], many: &[Vec<Tensor>]) -> Result<(), Mismatch> {
    let rows = u32::try_from(many.len()).unwrap_or(u32::MAX);
    for row in many {
        for (expected, got) in one.iter().zip(row) {
            compare_tensor(expected, got).map_err(|problem| Mismatch {
                output: expected.name.clone(),
                rows,
                problem,
            })?;
        }
    }
    Ok(())
}

fn compare_tensor(expected: &Tensor, got: &Tensor) -> Result<(), String> {
    if expected.shape != got.shape {
        return Err(format!("shape {:?} instead of {:?}", got.shape, expected.shape));
    }
    let step = match expected.datatype {
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => FLOAT_STEP,
        Datatype::Bytes => {
            let same = tensors::strings(&expected.data).eq(tensors::strings(&got.data));
            return if same { Ok(()) } else { Err("other strings".to_owned()) };
        }
        _ => INTEGER_STEP,
    };
    let (expected, got) = (numbers(expected), numbers(got));
    let finite = |number: &f64| number.is_finite();
    let largest = expected.iter().copied().filter(finite).map(f64::abs).fold(0.0, f64::max);
    let tolerance = TOLERANCE * largest + step;
    // Where the single row's number is not finite, any number passes: a model may divide 0 by 0.
    let off = |&(expected, got): &(f64, f64)| {
        expected.is_finite() && (!got.is_finite() || (got - expected).abs() > tolerance)
    };
    match expected.into_iter().zip(got).find(off) {
        Some((expected, got)) => Err(format!("{got} instead of {expected}")),
        None => Ok(()),
    }
}

/// The elements of a tensor of numbers.
#[expect(clippy::cast_precision_loss, reason = "numbers are compared with a tolerance")]
fn numbers(tensor: &Tensor) -> Vec<f64> {
    let data = &tensor.data;
    match tensor.datatype {
        Datatype::Bool | Datatype::Uint8 => elements(data, |[byte]: [u8; 1]| byte.into()),
        Datatype::Uint16 => elements(data, |bytes| u16::from_le_bytes(bytes).into()),
        Datatype::Uint32 => elements(data, |bytes| u32::from_le_bytes(bytes).into()),
        Datatype::Uint64 => elements(data, |bytes| u64::from_le_bytes(bytes) as f64),
        Datatype::Int8 => elements(data, |bytes| i8::from_le_bytes(bytes).into()),
        Datatype::Int16 => elements(data, |bytes| i16::from_le_bytes(bytes).into()),
        Datatype::Int32 => elements(data, |bytes| i32::from_le_bytes(bytes).into()),
        Datatype::Int64 => elements(data, |bytes| i64::from_le_bytes(bytes) as f64),
        Datatype::Fp16 => elements(data, |bytes| f16::from_le_bytes(bytes).into()),
        Datatype::Bf16 => elements(data, |bytes| bf16::from_le_bytes(bytes).into()),
        Datatype::Fp32 => elements(data, |bytes| f32::from_le_bytes(bytes).into()),
        Datatype::Fp64 => elements(data, f64::from_le_bytes),
        Datatype::Bytes => Vec::new(),
    }
}

fn elements<const SIZE: usize>(data: &[u8], number: impl Fn([u8; SIZE]) -> f64) -> Vec<f64> {
    data.as_chunks().0.iter().copied().map(number).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use batchfleet_broker::QueueName;

    use super::*;

    fn floats(values: &[f32]) -> Vec<Tensor> {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = vec![1, values.len() as u64];
        vec![Tensor { name: "Y".to_owned(), datatype: Datatype::Fp32, shape, data: data.into() }]
    }

    #[test]
    fn small_differences_of_floats_are_tolerated() {
        let one = floats(&[10.0, 0.0, -0.5]);
        let many = [one.clone(), floats(&[10.1, 0.1, -0.6]), floats(&[9.9, 0.0, -0.5])];
        assert_eq!(compare(&one, &many), Ok(()));
    }

    #[test]
    fn garbage_in_any_row_is_found() {
        let one = floats(&[10.0, 0.0]);
        for garbage in [[f32::NAN, 0.0], [10.0, 1.0], [0.0, 0.0], [f32::INFINITY, 0.0]] {
            let error = compare(&one, &[one.clone(), floats(&garbage)]).unwrap_err().to_string();
            assert!(error.contains("\"Y\" of the same input differs in a batch of 2"), "{error}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_for_one_row_are_not_compared() {
        assert_eq!(compare(&floats(&[f32::NAN, 1.0]), &[floats(&[5.0, 1.0])]), Ok(()));
    }

    #[test]
    fn integers_and_strings_are_compared_too() {
        let tensor = |datatype, data: &[u8]| {
            vec![Tensor {
                name: "Y".to_owned(),
                datatype,
                shape: vec![1],
                data: data.to_vec().into(),
            }]
        };
        let seven = tensor(Datatype::Int64, &7_i64.to_le_bytes());
        assert!(compare(&seven, &[tensor(Datatype::Int64, &8_i64.to_le_bytes())]).is_ok());
        assert!(compare(&seven, &[tensor(Datatype::Int64, &700_i64.to_le_bytes())]).is_err());
        let text = tensor(Datatype::Bytes, b"\x01\0\0\0a");
        assert!(compare(&text, &[tensor(Datatype::Bytes, b"\x01\0\0\0a")]).is_ok());
        assert!(compare(&text, &[tensor(Datatype::Bytes, b"\x01\0\0\0b")]).is_err());
    }

    fn check(dims: &[i64], shapes: &BTreeMap<String, Vec<u64>>) -> GoldenCheck {
        let model = ModelSpec {
            queue: QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: NonZeroU32::new(64),
            inputs: vec![TensorSpec::new("X", Datatype::Fp32, dims.to_vec())],
            outputs: Vec::new(),
        };
        GoldenCheck::new(&model, shapes)
    }

    #[test]
    fn a_size_that_gives_garbage_is_found() {
        for garbage_at in [1, 2, 8, 64] {
            let mut check = check(&[-1, 3], &BTreeMap::new());
            for rows in [1, 2, 4, 8] {
                let mut outputs = check.inputs(rows);
                if rows == garbage_at {
                    outputs[0].data = vec![0x7f; outputs[0].data.len()].into();
                }
                check.check(rows, outputs).unwrap();
            }
            assert_eq!(check.mismatch().is_some(), garbage_at < 64, "{garbage_at} rows");
        }
    }

    #[test]
    fn open_dimensions_are_one_unless_the_config_gives_them() {
        for (shapes, expected) in
            [(BTreeMap::new(), [2, 1, 3]), (BTreeMap::from([("X".to_owned(), vec![7])]), [2, 7, 3])]
        {
            assert_eq!(check(&[-1, -1, 3], &shapes).inputs(2)[0].shape, expected);
        }
    }
}
