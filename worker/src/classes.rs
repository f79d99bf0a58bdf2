//! The classification extension: instead of an output, its highest values as text, each with its
//! index and its label: `0.900000:2:cat`. Pure.
//!
//! The texts are those of Triton, because clients parse them: a value of floating point has six
//! digits after the point.

use std::{cmp::Ordering, collections::BTreeMap};

use batchfleet_broker::{ClassCount, Datatype, ModelSpec, Tensor};
use half::{bf16, f16};

use crate::tensors;

/// Maximum number of values of a row, which bounds the time and memory of the search.
const MAX_VALUES: usize = 1_000_000;

/// The labels of outputs, by the name of the output: the label of the first value, and so on.
pub(crate) type Labels = BTreeMap<String, Vec<String>>;

/// Replaces the outputs that are `wanted` as classes.
///
/// # Errors
///
/// The message for the caller, if an output is too large or holds no numbers.
pub(crate) fn classify(
    spec: &ModelSpec,
    labels: &Labels,
    wanted: &[ClassCount],
    outputs: Vec<Tensor>,
) -> Result<Vec<Tensor>, String> {
    let replace = |output: Tensor| {
        let Some(class) = wanted.iter().find(|class| class.output == output.name) else {
            return Ok(output);
        };
        let spec_of = spec.outputs.iter().find(|spec| spec.name == output.name);
        let row_axis = spec_of.and_then(|spec| spec.row_axis);
        let has_rows = spec.batches() && row_axis == Some(0);
        let labels = labels.get(&output.name).map_or(&[][..], Vec::as_slice);
        top(&output, has_rows, class.count as usize, labels)
            .map_err(|problem| format!("output {:?}: {problem}", output.name))
    };
    outputs.into_iter().map(replace).collect()
}

/// The `count` highest values of each row of `output`.
fn top(output: &Tensor, has_rows: bool, count: usize, labels: &[String]) -> Result<Tensor, String> {
    let (rows, row) = match output.shape.split_first() {
        Some((rows, row)) if has_rows => (Some(*rows), row),
        _ => (None, &output.shape[..]),
    };
    let values = usize::try_from(row.iter().product::<u64>()).unwrap_or(usize::MAX);
    if values > MAX_VALUES {
        return Err(format!(
            "classification output tensor too large: {values} values of a row, {MAX_VALUES} are \
             possible"
        ));
    }
    let unsupported = || {
        format!(
            "class result not available for output due to unsupported type '{}'",
            output.datatype
        )
    };
    let size = output.datatype.size().ok_or_else(unsupported)?;
    let mut texts = Vec::new();
    // An output without values has no rows to search either.
    for row in output.data.chunks_exact((values * size).max(1)) {
        let found = highest(row, output.datatype, count).ok_or_else(unsupported)?;
        texts.extend(found.into_iter().map(|(at, value)| {
            match labels.get(at).filter(|label| !label.is_empty()) {
                Some(label) => format!("{value}:{at}:{label}"),
                None => format!("{value}:{at}"),
            }
        }));
    }
    let shape = rows.into_iter().chain([count.min(values) as u64]).collect();
    let (name, data) = (output.name.clone(), tensors::encode_strings(texts.iter()));
    Ok(Tensor { name, datatype: Datatype::Bytes, shape, data })
}

/// The indexes and texts of the `count` highest values, the highest first; `None` if the elements
/// are no numbers.
fn highest(row: &[u8], datatype: Datatype, count: usize) -> Option<Vec<(usize, String)>> {
    let half = |bytes| f16::from_le_bytes(bytes).to_f64();
    let brain = |bytes| bf16::from_le_bytes(bytes).to_f64();
    let single = |bytes| f64::from(f32::from_le_bytes(bytes));
    Some(match datatype {
        Datatype::Uint8 => integers(row, count, u8::from_le_bytes),
        Datatype::Uint16 => integers(row, count, u16::from_le_bytes),
        Datatype::Uint32 => integers(row, count, u32::from_le_bytes),
        Datatype::Uint64 => integers(row, count, u64::from_le_bytes),
        Datatype::Int8 => integers(row, count, i8::from_le_bytes),
        Datatype::Int16 => integers(row, count, i16::from_le_bytes),
        Datatype::Int32 => integers(row, count, i32::from_le_bytes),
        Datatype::Int64 => integers(row, count, i64::from_le_bytes),
        Datatype::Fp16 => floats(row, count, half),
        Datatype::Bf16 => floats(row, count, brain),
        Datatype::Fp32 => floats(row, count, single),
        Datatype::Fp64 => floats(row, count, f64::from_le_bytes),
        Datatype::Bool | Datatype::Bytes => return None,
    })
}

fn integers<const N: usize, T: Ord + ToString>(
    row: &[u8],
    count: usize,
    read: impl Fn([u8; N]) -> T,
) -> Vec<(usize, String)> {
    let found = select(row, count, read, T::cmp);
    found.into_iter().map(|(at, value)| (at, value.to_string())).collect()
}

fn floats<const N: usize>(
    row: &[u8],
    count: usize,
    read: impl Fn([u8; N]) -> f64,
) -> Vec<(usize, String)> {
    // NaN is lower than every number.
    let compare =
        |a: &f64, b: &f64| a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()));
    let text = |value: f64| match (value.is_nan(), value.is_sign_negative()) {
        (true, true) => "-nan".to_owned(),
        (true, false) => "nan".to_owned(),
        (false, _) => format!("{value:.6}"),
    };
    let found = select(row, count, read, compare);
    found.into_iter().map(|(at, value)| (at, text(value))).collect()
}

/// The `count` highest values, the highest first; of equal values the one with the lower index.
fn select<const N: usize, T>(
    row: &[u8],
    count: usize,
    read: impl Fn([u8; N]) -> T,
    compare: impl Fn(&T, &T) -> Ordering,
) -> Vec<(usize, T)> {
    let mut all: Vec<_> = row.as_chunks().0.iter().map(|bytes| read(*bytes)).enumerate().collect();
    let order = |a: &(usize, T), b: &(usize, T)| compare(&b.1, &a.1).then(a.0.cmp(&b.0));
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use batchfleet_broker::{QueueName, TensorSpec};

    use super::*;

    fn spec(batches: bool, row_axis: Option<u32>) -> ModelSpec {
        let y = TensorSpec { row_axis, ..TensorSpec::new("y", Datatype::Fp32, [-1, -1]) };
        ModelSpec {
            queue: QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: NonZeroU32::new(u32::from(batches) * 8),
            inputs: Vec::new(),
            outputs: vec![y, TensorSpec::new("z", Datatype::Fp32, [-1])],
        }
    }

    fn tensor(name: &str, datatype: Datatype, shape: &[u64], data: Vec<u8>) -> Tensor {
        Tensor { name: name.to_owned(), datatype, shape: shape.to_vec(), data: data.into() }
    }

    fn singles(shape: &[u64], values: &[f32]) -> Tensor {
        tensor("y", Datatype::Fp32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn classes(output: Tensor, count: u32, batches: bool) -> (Vec<u64>, Vec<String>) {
        let labels = Labels::from([("y".to_owned(), vec!["cat".to_owned(), "dog".to_owned()])]);
        let wanted = [ClassCount { output: "y".to_owned(), count }];
        let spec = spec(batches, Some(0));
        let [output] =
            <[_; 1]>::try_from(classify(&spec, &labels, &wanted, vec![output]).unwrap()).unwrap();
        let texts = tensors::strings(&output.data);
        let texts = texts.map(|text| String::from_utf8(text.unwrap().to_vec()).unwrap()).collect();
        assert_eq!(output.datatype, Datatype::Bytes);
        (output.shape, texts)
    }

    #[test]
    fn each_row_has_its_own_classes_the_highest_first() {
        let output = || singles(&[2, 3], &[0.1, 0.25, 0.7, -1.0, -0.5, -2.0]);
        let (shape, texts) = classes(output(), 2, true);
        assert_eq!(shape, [2, 2]);
        assert_eq!(texts, ["0.700000:2", "0.250000:1:dog", "-0.500000:1:dog", "-1.000000:0:cat"]);
        let (shape, texts) = classes(output(), 1, false);
        assert_eq!((shape, texts), (vec![1], vec!["0.700000:2".to_owned()]), "no rows: one list");
    }

    #[test]
    fn there_are_no_more_classes_than_values_and_dimensions_of_a_row_are_one() {
        let (shape, texts) = classes(singles(&[1, 2, 1, 1], &[1.0, 3.0]), 9, true);
        assert_eq!(
            (shape, texts),
            (vec![1, 2], vec!["3.000000:1:dog".into(), "1.000000:0:cat".into()])
        );
        assert_eq!(classes(singles(&[3, 0], &[]), 2, true), (vec![3, 0], vec![]));
        assert_eq!(classes(singles(&[], &[5.0]), 2, false).1, ["5.000000:0:cat"]);
    }

    #[test]
    fn equal_values_keep_their_order_and_nan_comes_last() {
        let values = [f32::NAN, 0.0, -0.0, f32::INFINITY, 0.0, -f32::NAN, f32::NEG_INFINITY];
        let (_, texts) = classes(singles(&[1, 7], &values), 7, true);
        let indexes: Vec<_> = texts.iter().map(|text| text.split(':').nth(1).unwrap()).collect();
        assert_eq!(indexes, ["3", "1", "2", "4", "6", "0", "5"]);
        assert_eq!((texts[0].as_str(), texts[4].as_str()), ("inf:3", "-inf:6"));
        assert_eq!((texts[5].as_str(), texts[6].as_str()), ("nan:0:cat", "-nan:5"));
        let many = vec![1.0; 100];
        let (_, texts) = classes(singles(&[1, 100], &many), 3, true);
        assert_eq!(texts, ["1.000000:0:cat", "1.000000:1:dog", "1.000000:2"]);
    }

    #[test]
    fn numbers_of_every_type_are_written_as_triton_writes_them() {
        let of = |datatype, data: Vec<u8>| {
            let values = (data.len() / datatype_size(datatype)) as u64;
            classes(tensor("y", datatype, &[1, values], data), 2, true).1
        };
        assert_eq!(of(Datatype::Uint8, vec![2, 255]), ["255:1:dog", "2:0:cat"]);
        assert_eq!(of(Datatype::Int8, vec![2, 255]), ["2:0:cat", "-1:1:dog"]);
        assert_eq!(
            of(Datatype::Uint64, [1, u64::MAX].map(u64::to_le_bytes).concat()),
            ["18446744073709551615:1:dog", "1:0:cat"]
        );
        assert_eq!(
            of(Datatype::Int64, [i64::MIN, -7].map(i64::to_le_bytes).concat()),
            ["-7:1:dog", "-9223372036854775808:0:cat"]
        );
        let halves = [0.5, 2.0].map(|value| f16::from_f32(value).to_le_bytes()).concat();
        assert_eq!(of(Datatype::Fp16, halves), ["2.000000:1:dog", "0.500000:0:cat"]);
        let doubles = [1e20, 1.234_567_89].map(f64::to_le_bytes).concat();
        assert_eq!(
            of(Datatype::Fp64, doubles),
            ["100000000000000000000.000000:0:cat", "1.234568:1:dog"]
        );
    }

    fn datatype_size(datatype: Datatype) -> usize {
        datatype.size().unwrap()
    }

    #[test]
    fn other_outputs_stay_as_they_are_and_bad_ones_are_named() {
        let wanted = [ClassCount { output: "y".to_owned(), count: 1 }];
        let of = |output| classify(&spec(true, Some(0)), &Labels::new(), &wanted, vec![output]);
        let z = tensor("z", Datatype::Bytes, &[1], vec![0; 4]);
        assert_eq!(of(z.clone()).unwrap(), [z]);
        let flags = of(tensor("y", Datatype::Bool, &[1, 2], vec![0, 1])).unwrap_err();
        assert!(flags.contains("output \"y\": class result not available"), "{flags}");
        let large = of(singles(&[1, 1_000_001], &vec![1.0; 1_000_001])).unwrap_err();
        assert!(large.contains("classification output tensor too large"), "{large}");
    }
}
