//! Tensors in the typed form of the protocol: a list of numbers, booleans or byte strings in the
//! message `InferTensorContents`.

use batchfleet_broker::Datatype;
use bytes::Bytes;

use super::wire::{Field, Fields, Value, first_varint};
use crate::{
    binary,
    problem::{Problem, quote},
    shape,
};

/// The typed contents of one input, as sent.
#[derive(Default)]
pub(crate) struct Contents {
    /// The parts of a message that was sent in several parts, usually one.
    parts: Vec<Bytes>,
}

/// Maximum number of parts of one input. Clients send one.
const MAX_PARTS: usize = 16;

impl Contents {
    pub(crate) fn push(&mut self, message: Bytes) -> Result<(), Problem> {
        // MLServer sends an empty message beside raw contents.
        if message.is_empty() {
            return Ok(());
        }
        if self.parts.len() == MAX_PARTS {
            return Err(bad(format!("contents come in more than {MAX_PARTS} parts")));
        }
        self.parts.push(message);
        Ok(())
    }

    /// Whether nothing was sent.
    pub(crate) fn is_absent(&self) -> bool {
        self.parts.is_empty()
    }

    /// The contents as the bytes of a tensor.
    pub(crate) fn convert(self, datatype: Datatype, shape: &[u64]) -> Result<Bytes, Problem> {
        let list = list_of(datatype)?;
        let mut out =
            Output { datatype, bytes: Vec::new(), count: 0, wanted: shape::elements(shape)? };
        for part in self.parts {
            let mut fields = Fields::of(part);
            while let Some(field) = fields.next()? {
                if field.number == list {
                    out.list(&field)?;
                } else if (1..=8).contains(&field.number) {
                    let wanted = NAMES[list as usize - 1];
                    return Err(bad(format!("{datatype} is sent in {wanted}")));
                }
            }
        }
        if out.count < out.wanted {
            return Err(bad(format!(
                "contents have {} values, but their shape has {}",
                out.count, out.wanted
            )));
        }
        Ok(out.bytes.into())
    }
}

/// The lists of a message, by number.
const NAMES: [&str; 8] = [
    "bool_contents",
    "int_contents",
    "int64_contents",
    "uint_contents",
    "uint64_contents",
    "fp32_contents",
    "fp64_contents",
    "bytes_contents",
];

/// The number of the list that holds this datatype.
fn list_of(datatype: Datatype) -> Result<u32, Problem> {
    Ok(match datatype {
        Datatype::Bool => 1,
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => 2,
        Datatype::Int64 => 3,
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => 4,
        Datatype::Uint64 => 5,
        Datatype::Fp32 => 6,
        Datatype::Fp64 => 7,
        Datatype::Bytes => 8,
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(Problem::unsupported(format!(
                "{datatype} has no typed contents; send it in raw_input_contents"
            )));
        }
    })
}

/// A tensor during conversion.
struct Output {
    datatype: Datatype,
    bytes: Vec<u8>,
    count: usize,
    wanted: usize,
}

impl Output {
    /// Appends the elements of one field of the list: a packed list, or one element.
    fn list(&mut self, field: &Field) -> Result<(), Problem> {
        match (self.datatype, &field.value) {
            (Datatype::Bytes, Value::Bytes(element)) => {
                self.count(1)?;
                binary::push_element(&mut self.bytes, element)
            }
            (Datatype::Fp32, Value::Bytes(packed)) => self.fixed::<4>(packed),
            (Datatype::Fp64, Value::Bytes(packed)) => self.fixed::<8>(packed),
            (Datatype::Fp32, Value::Fixed32(element)) => self.fixed::<4>(element),
            (Datatype::Fp64, Value::Fixed64(element)) => self.fixed::<8>(element),
            (Datatype::Bytes | Datatype::Fp32 | Datatype::Fp64, _) => Err(field.mistyped()),
            (_, Value::Bytes(packed)) => self.varints(packed),
            (_, Value::Varint(element)) => {
                self.count(1)?;
                self.whole(*element)
            }
            _ => Err(field.mistyped()),
        }
    }

    fn fixed<const N: usize>(&mut self, packed: &[u8]) -> Result<(), Problem> {
        if !packed.len().is_multiple_of(N) {
            return Err(bad(format!("a list of {} ends inside a value", self.datatype)));
        }
        self.count(packed.len() / N)?;
        self.bytes.extend_from_slice(packed);
        Ok(())
    }

    fn varints(&mut self, packed: &[u8]) -> Result<(), Problem> {
        let ends = packed.iter().filter(|byte| **byte & 0x80 == 0).count();
        self.count(ends)?;
        self.bytes.reserve(ends * self.datatype.size().unwrap_or(1));
        let mut rest = packed;
        while !rest.is_empty() {
            let (value, length) = first_varint(rest)?;
            self.whole(value)?;
            rest = &rest[length..];
        }
        Ok(())
    }

    /// Appends a whole number. Negative numbers of 32 bits are sent with 64 bits.
    fn whole(&mut self, value: u64) -> Result<(), Problem> {
        #[expect(clippy::cast_possible_truncation, reason = "the format cuts numbers to 32 bits")]
        let unsigned = value as u32;
        let signed = unsigned.cast_signed();
        let range =
            || bad(format!("{} is not a valid {}", quote(&signed.to_string()), self.datatype));
        match self.datatype {
            Datatype::Bool => self.bytes.push(u8::from(value != 0)),
            Datatype::Int8 => {
                let byte = i8::try_from(signed).map_err(|_| range())?;
                self.bytes.extend_from_slice(&byte.to_le_bytes());
            }
            Datatype::Int16 => {
                let pair = i16::try_from(signed).map_err(|_| range())?;
                self.bytes.extend_from_slice(&pair.to_le_bytes());
            }
            Datatype::Uint8 => self.bytes.push(u8::try_from(unsigned).map_err(|_| range())?),
            Datatype::Uint16 => {
                let pair = u16::try_from(unsigned).map_err(|_| range())?;
                self.bytes.extend_from_slice(&pair.to_le_bytes());
            }
            Datatype::Int32 | Datatype::Uint32 => {
                self.bytes.extend_from_slice(&unsigned.to_le_bytes());
            }
            _ => self.bytes.extend_from_slice(&value.to_le_bytes()),
        }
        Ok(())
    }

    /// Counts elements before they are converted.
    fn count(&mut self, more: usize) -> Result<(), Problem> {
        self.count += more;
        if self.count > self.wanted {
            return Err(bad(format!(
                "contents have more than the {} values of their shape",
                self.wanted
            )));
        }
        Ok(())
    }
}

fn bad(message: impl Into<String>) -> Problem {
    Problem::bad("bad_data", message)
}
