//! Makes up the values of test rows. Pure and deterministic.

use batchfleet_broker::{Datatype, Tensor, TensorSpec};
use bytes::Bytes;
use half::{bf16, f16};
use rand::{RngExt, rngs::StdRng};

use crate::tensors;

/// More rows of a table are not selected.
const MOST_INDEX: u64 = 1000;

/// The values of one test row. Rows that differ in size show what a batch has in common: the
/// largest row decides a common scale, and the smallest row suffers from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowKind {
    /// Zeros, or empty strings.
    Zeros,
    /// Numbers of the size of 1.
    Unit,
    /// Numbers a thousandth of that.
    Small,
    /// Numbers a thousand times as large.
    Large,
}

impl RowKind {
    /// All kinds. The first two show the most of a model that is too slow for more.
    pub(super) const ALL: [Self; 4] = [Self::Unit, Self::Large, Self::Small, Self::Zeros];

    fn scale(self) -> f64 {
        match self {
            Self::Zeros => 0.0,
            Self::Unit => 1.0,
            Self::Small => 1e-3,
            Self::Large => 1e3,
        }
    }
}

/// The kinds of values that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// The strings that a model takes.
    pub(super) strings: Strings,
    /// The integers that a model takes if they select rows of no known table.
    pub(super) integers: Integers,
    /// Whether floats may be negative.
    pub(super) signed: bool,
}

/// The strings that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strings {
    /// Numbers, for models that parse them.
    Digits,
    /// Words.
    Words,
    /// The words in the model's file.
    Listed,
    /// Empty strings.
    Empty,
}

/// The integers that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Integers {
    /// 0 and 1; in some rows also larger integers.
    Any,
    /// 0 and 1.
    Flags,
    /// Only 1.
    Ones,
    /// Only 0.
    Zeros,
}

impl Style {
    /// The styles to try for a model with these inputs, the most telling first.
    pub(super) fn all(inputs: &[TensorSpec]) -> Vec<Self> {
        let has =
            |is_meant: fn(Datatype) -> bool| inputs.iter().any(|input| is_meant(input.datatype));
        let strings: &[Strings] = if has(|datatype| datatype == Datatype::Bytes) {
            &[Strings::Digits, Strings::Words, Strings::Empty]
        } else {
            &[Strings::Digits]
        };
        let integers: &[Integers] = if has(is_integer) {
            &[Integers::Any, Integers::Ones, Integers::Zeros]
        } else {
            &[Integers::Any]
        };
        let of = |&strings: &Strings| {
            integers.iter().map(move |&integers| Self { strings, integers, signed: true })
        };
        strings.iter().flat_map(of).collect()
    }

    /// The same style with values that a model is more likely to take; `None` if there are none.
    pub(super) fn milder(self) -> Option<Self> {
        match self {
            Self { integers: Integers::Any, .. } => {
                Some(Self { integers: Integers::Flags, ..self })
            }
            Self { signed: true, .. } => Some(Self { signed: false, ..self }),
            _ => None,
        }
    }
}

fn is_integer(datatype: Datatype) -> bool {
    !matches!(
        datatype,
        Datatype::Bytes | Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64
    )
}

/// What the model's file tells of the values of an input.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known<'a> {
    /// The number of rows of the table from which integers select.
    pub(super) table: Option<u64>,
    /// Words in the file.
    pub(super) words: &'a [String],
}

/// Makes up a tensor of `shape`.
pub(super) fn tensor(
    spec: &TensorSpec,
    shape: &[u64],
    (kind, style): (RowKind, Style),
    known: Known<'_>,
    random: &mut StdRng,
) -> Tensor {
    let count = usize::try_from(shape.iter().product::<u64>()).unwrap_or_default();
    let data: Bytes = match spec.datatype {
        Datatype::Bytes => strings(count, (kind, style.strings), known.words, random),
        datatype if is_integer(datatype) => {
            let range = integers(datatype, kind, style.integers, known.table);
            let mut bytes = Vec::with_capacity(count * datatype.size().unwrap_or(1));
            for _ in 0..count {
                let integer = random.random_range(range.clone());
                bytes.extend_from_slice(&integer.to_le_bytes()[..datatype.size().unwrap_or(1)]);
            }
            bytes.into()
        }
        datatype => {
            let least = if style.signed { -1.0 } else { 0.0 };
            let float = |_| kind.scale() * random.random_range(least..1.0);
            floats(datatype, (0..count).map(float))
        }
    };
    Tensor { name: spec.name.clone(), datatype: spec.datatype, shape: shape.to_vec(), data }
}

#[expect(clippy::cast_possible_truncation, reason = "a random number may be rounded")]
fn floats(datatype: Datatype, floats: impl Iterator<Item = f64>) -> Bytes {
    match datatype {
        Datatype::Fp16 => floats.flat_map(|float| f16::from_f64(float).to_le_bytes()).collect(),
        Datatype::Bf16 => floats.flat_map(|float| bf16::from_f64(float).to_le_bytes()).collect(),
        Datatype::Fp64 => floats.flat_map(f64::to_le_bytes).collect(),
        _ => floats.flat_map(|float| (float as f32).to_le_bytes()).collect(),
    }
}

/// The range of the integers of a row.
fn integers(
    datatype: Datatype,
    kind: RowKind,
    style: Integers,
    table: Option<u64>,
) -> std::ops::RangeInclusive<i64> {
    if let Some(rows) = table.filter(|_| kind != RowKind::Zeros && style != Integers::Zeros) {
        let most = rows.clamp(1, MOST_INDEX) - 1;
        return 0..=i64::try_from(most).unwrap_or_default();
    }
    // Bytes are pixels more often than flags.
    let byte = match datatype {
        Datatype::Uint8 => Some(0..=255),
        Datatype::Int8 => Some(-128..=127),
        _ => None,
    };
    match (style, kind) {
        (Integers::Zeros, _) | (_, RowKind::Zeros) => 0..=0,
        (Integers::Ones, _) => 1..=1,
        (Integers::Any, RowKind::Small) if datatype != Datatype::Bool => 0..=9,
        (Integers::Any, RowKind::Large) if datatype != Datatype::Bool => byte.unwrap_or(0..=999),
        (Integers::Any, RowKind::Unit) => byte.unwrap_or(0..=1),
        _ => 0..=1,
    }
}

fn strings(
    count: usize,
    (kind, style): (RowKind, Strings),
    words: &[String],
    random: &mut StdRng,
) -> Bytes {
    const WORDS: [&str; 8] =
        ["hello", "world", "The", "answer", "to", "everything", "is", "forty-two"];
    // Each kind of row begins with another word.
    let listed = |at: usize| words.get((at + kind as usize) % words.len().max(1)).cloned();
    let string = |at| match (style, kind) {
        (Strings::Listed, _) => listed(at).unwrap_or_default(),
        (Strings::Empty, _) => String::new(),
        (Strings::Digits, RowKind::Zeros) => "0".to_owned(),
        (Strings::Digits, RowKind::Large) => random.random_range(0..1000).to_string(),
        (Strings::Digits, _) => random.random_range(0..10).to_string(),
        (Strings::Words, RowKind::Large) => {
            let words = (0..12).map(|_| WORDS[random.random_range(0..WORDS.len())]);
            words.collect::<Vec<_>>().join(" ")
        }
        (Strings::Words, _) => WORDS[random.random_range(0..WORDS.len())].to_owned(),
    };
    let strings: Vec<String> = (0..count).map(string).collect();
    tensors::encode_strings(strings.iter())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const STYLE: Style = Style { strings: Strings::Digits, integers: Integers::Any, signed: true };

    fn made(datatype: Datatype, kind: RowKind, style: Style, table: Option<u64>) -> Vec<u8> {
        let spec = TensorSpec::new("X", datatype, [-1, 64]);
        let random = &mut StdRng::seed_from_u64(7);
        let words = ["red", "green", "blue"].map(str::to_owned);
        let known = Known { table, words: &words };
        tensor(&spec, &[1, 64], (kind, style), known, random).data.to_vec()
    }

    #[test]
    fn rows_differ_in_size_and_are_the_same_each_time() {
        let largest = |kind| {
            let bytes = made(Datatype::Fp32, kind, STYLE, None);
            assert_eq!(bytes, made(Datatype::Fp32, kind, STYLE, None));
            let floats = bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes);
            floats.map(f32::abs).fold(0.0, f32::max)
        };
        assert!(largest(RowKind::Zeros) == 0.0);
        assert!((0.5..=1.0).contains(&largest(RowKind::Unit)));
        assert!((500.0..=1000.0).contains(&largest(RowKind::Large)));
        assert!((0.5e-3..=1e-3).contains(&largest(RowKind::Small)));
    }

    #[test]
    fn integers_stay_within_their_table_and_flags_are_flags() {
        let most = |kind, integers, table| {
            let bytes = made(Datatype::Int64, kind, Style { integers, ..STYLE }, table);
            bytes.as_chunks().0.iter().copied().map(i64::from_le_bytes).max()
        };
        assert!(most(RowKind::Large, Integers::Any, Some(2)) == Some(1));
        assert!(most(RowKind::Unit, Integers::Any, Some(30_000)) > Some(500));
        assert!(most(RowKind::Unit, Integers::Any, None) == Some(1));
        assert!(most(RowKind::Large, Integers::Any, None) > Some(500));
        assert!(most(RowKind::Large, Integers::Flags, None) == Some(1));
        assert!(most(RowKind::Zeros, Integers::Any, Some(100)) == Some(0));
    }

    #[test]
    fn every_datatype_is_filled_and_milder_styles_come_to_an_end() {
        for (datatype, size) in
            [(Datatype::Bool, 1), (Datatype::Uint8, 1), (Datatype::Fp16, 2), (Datatype::Fp64, 8)]
        {
            for kind in RowKind::ALL {
                assert_eq!(made(datatype, kind, STYLE, None).len(), 64 * size, "{datatype}");
            }
        }
        let flags = made(Datatype::Bool, RowKind::Large, STYLE, None);
        assert!(flags.contains(&1) && flags.iter().all(|&flag| flag <= 1));
        let milder = std::iter::successors(Some(STYLE), |style| style.milder());
        assert_eq!(milder.count(), 3);
    }

    #[test]
    fn strings_are_digits_then_words_then_empty() {
        let inputs = [TensorSpec::new("S", Datatype::Bytes, [-1, 1])];
        let styles = Style::all(&inputs);
        let first = |style: &Style| {
            let bytes = made(Datatype::Bytes, RowKind::Unit, *style, None);
            let strings: Result<Vec<&[u8]>, _> = tensors::strings(&bytes).collect();
            let strings = strings.unwrap();
            assert_eq!(strings.len(), 64);
            String::from_utf8(strings[0].to_vec()).unwrap()
        };
        let found: Vec<String> = styles.iter().map(first).collect();
        assert!(found[0].parse::<u8>().is_ok(), "{found:?}");
        assert!(found[1].chars().all(char::is_alphabetic), "{found:?}");
        assert_eq!(found[2], "");
    }

    #[test]
    fn listed_words_differ_from_row_to_row() {
        let first = |kind| {
            let bytes =
                made(Datatype::Bytes, kind, Style { strings: Strings::Listed, ..STYLE }, None);
            tensors::strings(&bytes).next().unwrap().unwrap().to_vec()
        };
        let found = [RowKind::Zeros, RowKind::Unit, RowKind::Small].map(first);
        assert_eq!(found, [&b"red"[..], b"green", b"blue"]);
    }
}
