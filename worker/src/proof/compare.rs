//! Compares the outputs of one row in different batches. Pure.

use std::fmt;

use batchfleet_broker::{Datatype, Tensor};
use half::{bf16, f16};

use crate::tensors;

/// The strictest tolerance, relative to the largest number of the row's output. Kernels that sum in
/// another order differ by less, unless a model amplifies the difference.
const SINGLE: f64 = 1e-5;
/// The same for numbers of 16 bits, which have 11 or 8 bits of precision.
const HALF: f64 = 2e-3;
const BRAIN: f64 = 1.6e-2;
/// The widest relative tolerance: a difference beyond it is never noise.
pub(super) const WIDEST: f64 = 0.02;
/// The tolerance is this multiple of the noise of the kernels.
const MARGIN: f64 = 10.0;
/// Minimum absolute tolerance of floats, for numbers that are nearly 0 in an output whose largest
/// number is 1 or more.
const SMALLEST: f64 = 1e-6;
/// Larger numbers, such as the minus infinity of a mask, do not count as the largest of an output.
const FILL: f64 = 1e30;
/// The widest tolerance of integers: the result of a rounding may differ by 1.
const INTEGER_STEP: f64 = 1.0;

/// An output of a row that differs between two batches.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// The output.
    pub(crate) output: String,
    /// Rows of the batch in which the output differs from the output of the row alone.
    pub(crate) rows: u32,
    /// What differs.
    pub(crate) problem: String,
    /// Whether the shapes differ.
    pub(crate) is_shape: bool,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, rows, problem, .. } = self;
        write!(f, "output {output:?} of a row differs in a batch of {rows} rows: {problem}")
    }
}

/// How far two outputs of the same row may differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Tolerance {
    /// As far as kernels differ in general.
    Strict,
    /// As far as the model's own kernels differ between batches of different sizes, which
    /// [`noise`] measures.
    Noise(f64),
    /// As far as only broken devices differ.
    Widest,
}

/// How the outputs of a request in a batch of `rows` rows differ from its outputs `alone`.
pub(crate) fn differs(
    alone: &[Tensor],
    batched: &[Tensor],
    rows: u32,
    magnitudes: &Magnitudes,
) -> Option<Mismatch> {
    compare(alone, batched, rows, magnitudes, |_| Tolerance::Strict).err()
}

/// The same with the tolerance for the noise of kernels, which the outputs in a batch of `copies` of
/// the request show.
pub(crate) fn differs_beyond_noise(
    alone: &[Tensor],
    batched: &[Tensor],
    copies: &[Tensor],
    rows: u32,
    magnitudes: &Magnitudes,
) -> Option<Mismatch> {
    let noise: Vec<f64> =
        alone.iter().zip(copies).map(|(alone, copy)| noise(alone, copy)).collect();
    let tolerance = |output: usize| match noise.get(output) {
        Some(&noise) => Tolerance::Noise(noise),
        None => Tolerance::Strict,
    };
    compare(alone, batched, rows, magnitudes, tolerance).err()
}

/// The largest number that each output had, over rows that ran alone. In an output whose numbers are
/// all tiny, a tiny difference is no noise. Unknown for the default.
#[derive(Debug, Default)]
pub(crate) struct Magnitudes(Vec<f64>);

impl Magnitudes {
    /// The magnitudes over these outputs.
    pub(super) fn of<'a>(rows: impl Iterator<Item = &'a [Tensor]>) -> Self {
        let mut magnitudes: Vec<f64> = Vec::new();
        for outputs in rows {
            magnitudes.resize(magnitudes.len().max(outputs.len()), 0.0);
            for (magnitude, output) in magnitudes.iter_mut().zip(outputs) {
                *magnitude = magnitude.max(scale(&numbers(output)));
            }
        }
        Self(magnitudes)
    }

    /// The absolute difference that is noise in an output with these numbers.
    fn smallest(&self, output: usize, got: &[f64]) -> f64 {
        let magnitude = self.0.get(output).map_or(1.0, |magnitude| magnitude.max(scale(got)));
        SMALLEST * magnitude.min(1.0)
    }
}

/// Compares the outputs of a row, alone and in a batch of `rows` rows. `tolerance` gives the
/// tolerance for each output by its index.
pub(super) fn compare(
    alone: &[Tensor],
    batched: &[Tensor],
    rows: u32,
    magnitudes: &Magnitudes,
    tolerance: impl Fn(usize) -> Tolerance,
) -> Result<(), Mismatch> {
    for (at, (expected, got)) in alone.iter().zip(batched).enumerate() {
        let mismatch =
            |problem, is_shape| Mismatch { output: expected.name.clone(), rows, problem, is_shape };
        if expected.shape != got.shape {
            let problem = format!("shape {:?} instead of {:?}", got.shape, expected.shape);
            return Err(mismatch(problem, true));
        }
        let smallest = |got: &[f64]| magnitudes.smallest(at, got);
        difference(expected, got, tolerance(at), smallest)
            .map_err(|problem| mismatch(problem, false))?;
    }
    Ok(())
}

/// `smallest` is the absolute difference of floats that is noise.
fn difference(
    expected: &Tensor,
    got: &Tensor,
    tolerance: Tolerance,
    smallest: impl Fn(&[f64]) -> f64,
) -> Result<(), String> {
    if expected.data == got.data {
        return Ok(());
    }
    if expected.datatype == Datatype::Bytes {
        let same = tensors::strings(&expected.data).eq(tensors::strings(&got.data));
        return if same { Ok(()) } else { Err("other strings".to_owned()) };
    }
    let (is_float, floor) = precision(expected.datatype);
    let (expected, got) = (numbers(expected), numbers(got));
    let allowed = if is_float {
        let relative = match tolerance {
            Tolerance::Strict => floor,
            Tolerance::Noise(noise) => (noise * MARGIN).clamp(floor, WIDEST),
            Tolerance::Widest => WIDEST,
        };
        relative * scale(&expected) + smallest(&got)
    } else {
        match tolerance {
            Tolerance::Strict => 0.0,
            Tolerance::Noise(noise) => noise.min(INTEGER_STEP),
            Tolerance::Widest => INTEGER_STEP,
        }
    };
    let is_off = |&(expected, got): &(f64, f64)| {
        if expected.is_finite() && got.is_finite() {
            let allowed = if expected.abs() > FILL { expected.abs() * WIDEST } else { allowed };
            (got - expected).abs() > allowed
        } else {
            // Infinities of the same sign, or both not a number.
            expected.to_bits() != got.to_bits() && !(expected.is_nan() && got.is_nan())
        }
    };
    match expected.into_iter().zip(got).find(is_off) {
        Some((expected, got)) => Err(format!("{got} instead of {expected}")),
        None => Ok(()),
    }
}

/// How far the kernels of the model differ in an output of the same row in another batch: relative
/// to the largest number for floats, absolute for integers.
pub(super) fn noise(expected: &Tensor, got: &Tensor) -> f64 {
    let (is_float, _) = precision(expected.datatype);
    let (expected, got) = (numbers(expected), numbers(got));
    let scale = if is_float { scale(&expected).max(f64::MIN_POSITIVE) } else { 1.0 };
    let finite = expected.into_iter().zip(got).filter(|(a, b)| a.is_finite() && b.is_finite());
    finite.map(|(expected, got)| (got - expected).abs() / scale).fold(0.0, f64::max)
}

/// Whether an output holds numbers, all of which are finite.
pub(super) fn is_finite(tensor: &Tensor) -> bool {
    numbers(tensor).into_iter().all(f64::is_finite)
}

/// Whether the elements are floats, and the strictest relative tolerance.
fn precision(datatype: Datatype) -> (bool, f64) {
    match datatype {
        Datatype::Fp32 | Datatype::Fp64 => (true, SINGLE),
        Datatype::Fp16 => (true, HALF),
        Datatype::Bf16 => (true, BRAIN),
        _ => (false, 0.0),
    }
}

/// The largest number.
fn scale(numbers: &[f64]) -> f64 {
    numbers.iter().map(|number| number.abs()).filter(|&size| size <= FILL).fold(0.0, f64::max)
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
    use std::slice::from_ref;

    use super::*;

    fn tensor(datatype: Datatype, data: Vec<u8>) -> Tensor {
        let shape = vec![1, data.len() as u64];
        Tensor { name: "Y".to_owned(), datatype, shape, data: data.into() }
    }

    fn floats(values: &[f32]) -> Tensor {
        tensor(Datatype::Fp32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn halves(values: &[f32]) -> Tensor {
        let bytes = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes());
        tensor(Datatype::Fp16, bytes.collect())
    }

    fn integers(values: &[i64]) -> Tensor {
        tensor(Datatype::Int64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn is_same(alone: &Tensor, batched: &Tensor, tolerance: Tolerance) -> bool {
        let unknown = Magnitudes::default();
        compare(from_ref(alone), from_ref(batched), 4, &unknown, |_| tolerance).is_ok()
    }

    #[test]
    fn another_order_of_summation_is_tolerated_and_another_answer_is_not() {
        use Tolerance::Strict;
        let alone = floats(&[1000.0, 0.5, 0.0]);
        assert!(is_same(&alone, &floats(&[1000.001, 0.501, 1e-3]), Strict));
        assert!(!is_same(&alone, &floats(&[1000.1, 0.5, 0.0]), Strict));
        assert!(!is_same(&floats(&[0.5, 0.0]), &floats(&[0.5, 1e-4]), Strict));
        assert!(is_same(&floats(&[0.0]), &floats(&[1e-7]), Strict));
        assert!(is_same(&halves(&[1.0, 0.5]), &halves(&[1.001, 0.5]), Strict));
        assert!(!is_same(&halves(&[1.0, 0.5]), &halves(&[1.01, 0.5]), Strict));
    }

    #[test]
    fn a_difference_is_large_where_all_numbers_of_the_output_are_tiny() {
        let (tiny, other, zero) = (floats(&[1e-9, 0.0]), floats(&[1e-9, 1e-9]), floats(&[0.0; 2]));
        let is_same = |rows: &[&Tensor], alone: &Tensor, batched: &Tensor| {
            let magnitudes = Magnitudes::of(rows.iter().map(|&row| from_ref(row)));
            compare(from_ref(alone), from_ref(batched), 4, &magnitudes, |_| Tolerance::Strict)
                .is_ok()
        };
        assert!(!is_same(&[&tiny, &zero], &tiny, &other));
        assert!(!is_same(&[&zero], &zero, &other));
        assert!(is_same(&[&tiny, &zero], &zero, &floats(&[1e-16, 0.0])));
        assert!(is_same(&[&tiny, &floats(&[1.0, 2.0])], &tiny, &other));
    }

    #[test]
    fn measured_noise_widens_the_tolerance_up_to_a_limit() {
        let alone = floats(&[10.0, 1.0]);
        let noisy = |off: f32| floats(&[10.0 + off, 1.0]);
        let noise = noise(&alone, &noisy(0.001));
        assert!((0.99e-4..1.01e-4).contains(&noise), "{noise}");
        assert!(is_same(&alone, &noisy(0.009), Tolerance::Noise(noise)));
        assert!(!is_same(&alone, &noisy(0.02), Tolerance::Noise(noise)));
        assert!(!is_same(&alone, &noisy(0.3), Tolerance::Noise(1.0)));
    }

    #[test]
    fn numbers_that_are_not_finite_must_be_alike() {
        let kinds = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0, f32::MIN];
        for (at, &one) in kinds.iter().enumerate() {
            for (other_at, &other) in kinds.iter().enumerate() {
                let is_same =
                    is_same(&floats(&[one, 2.0]), &floats(&[other, 2.0]), Tolerance::Strict);
                assert_eq!(is_same, at == other_at, "{one} {other}");
            }
        }
    }

    #[test]
    fn the_fill_of_a_mask_hides_no_difference() {
        let alone = floats(&[f32::MIN, 2.0, 1.0]);
        assert!(is_same(&alone, &floats(&[f32::MIN, 2.00001, 1.0]), Tolerance::Strict));
        assert!(!is_same(&alone, &floats(&[f32::MIN, 2.1, 1.0]), Tolerance::Strict));
    }

    #[test]
    fn integers_are_exact_unless_the_kernels_round() {
        let seven = integers(&[7]);
        assert!(!is_same(&seven, &integers(&[8]), Tolerance::Strict));
        assert!(is_same(&seven, &integers(&[8]), Tolerance::Noise(1.0)));
        assert!(is_same(&seven, &integers(&[8]), Tolerance::Widest));
        assert!(!is_same(&seven, &integers(&[9]), Tolerance::Noise(3.0)));
    }

    #[test]
    fn strings_and_shapes_must_be_the_same() {
        let text = |text: &str| {
            tensor(Datatype::Bytes, tensors::encode_strings([text].into_iter()).to_vec())
        };
        assert!(is_same(&text("a"), &text("a"), Tolerance::Widest));
        assert!(!is_same(&text("a"), &text("b"), Tolerance::Widest));
        let longer = Tensor { shape: vec![1, 1, 1], ..floats(&[1.0]) };
        let error =
            compare(&[floats(&[1.0])], &[longer], 3, &Magnitudes::default(), |_| Tolerance::Widest)
                .unwrap_err();
        assert!(error.is_shape);
        assert_eq!(
            error.to_string(),
            "output \"Y\" of a row differs in a batch of 3 rows: shape [1, 1, 1] instead of [1, 4]"
        );
    }
}
