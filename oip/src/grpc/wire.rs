//! The wire format of protocol buffers: the fields of a message.

use bytes::Bytes;

use crate::problem::Problem;

/// The number of a field, and its value.
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) value: Value,
}

/// The value of a field as it was sent.
pub(crate) enum Value {
    /// A whole number, or a boolean.
    Varint(u64),
    /// Four bytes.
    Fixed32([u8; 4]),
    /// Eight bytes.
    Fixed64([u8; 8]),
    /// A string, bytes, a message, or packed numbers: a slice of the message.
    Bytes(Bytes),
}

/// The fields of a message, in the order in which they were sent.
pub(crate) struct Fields(Bytes);

impl Fields {
    pub(crate) fn of(message: Bytes) -> Self {
        Self(message)
    }

    /// The next field; `None` at the end of the message.
    pub(crate) fn next(&mut self) -> Result<Option<Field>, Problem> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = varint(&mut self.0)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| malformed("a field has no number"))?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut self.0)?),
            1 => Value::Fixed64(fixed(&mut self.0)?),
            2 => {
                let length = varint(&mut self.0)?;
                Value::Bytes(take(&mut self.0, length)?)
            }
            5 => Value::Fixed32(fixed(&mut self.0)?),
            kind => return Err(malformed(&format!("field {number} has the wire type {kind}"))),
        };
        Ok(Some(Field { number, value }))
    }
}

impl Field {
    /// The value of a string.
    pub(crate) fn text(self) -> Result<String, Problem> {
        let number = self.number;
        String::from_utf8(self.bytes()?.into())
            .map_err(|_| malformed(&format!("field {number} is not UTF-8")))
    }

    /// The value of bytes or of a message.
    pub(crate) fn bytes(self) -> Result<Bytes, Problem> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.mistyped()),
        }
    }

    pub(crate) fn mistyped(&self) -> Problem {
        malformed(&format!("field {} has the wrong wire type", self.number))
    }
}

/// Takes a number of variable length from the front.
#[inline]
pub(crate) fn varint(from: &mut Bytes) -> Result<u64, Problem> {
    let (value, length) = first_varint(from)?;
    take(from, length as u64)?;
    Ok(value)
}

/// The number of variable length at the front, and its length in bytes.
#[inline]
pub(crate) fn first_varint(from: &[u8]) -> Result<(u64, usize), Problem> {
    let mut value = 0;
    for (at, byte) in from.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((value, at + 1));
        }
    }
    Err(malformed("a number does not end"))
}

fn fixed<const N: usize>(from: &mut Bytes) -> Result<[u8; N], Problem> {
    let bytes = take(from, N as u64)?;
    bytes.as_ref().try_into().map_err(|_| malformed("a number does not end"))
}

fn take(from: &mut Bytes, length: u64) -> Result<Bytes, Problem> {
    match usize::try_from(length) {
        Ok(length) if length <= from.len() => Ok(from.split_to(length)),
        _ => Err(malformed("a field extends past the end of its message")),
    }
}

pub(crate) fn malformed(what: &str) -> Problem {
    Problem::bad("bad_message", format!("the message is malformed: {what}"))
}

/// Appends a number of variable length.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the lowest seven bits")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
    out.push(value as u8);
}

/// Appends the head of a field of bytes: its number and its length.
pub(crate) fn put_head(out: &mut Vec<u8>, number: u32, length: usize) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, length as u64);
}

/// Appends a field of bytes.
pub(crate) fn put(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_head(out, number, bytes.len());
    out.extend_from_slice(bytes);
}
