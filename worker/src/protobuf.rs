//! The encoding of protobuf messages: a sequence of numbered fields.

/// Deeper nesting is malformed, as for protobuf's own parser. Each level uses some of the stack.
pub(crate) const DEEPEST: u32 = 100;

/// The bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file is no ONNX model: its fields cannot be read")]
pub(crate) struct Malformed;

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) number: u64,
    pub(crate) content: Content<'a>,
    /// The whole field: key, length and content.
    pub(crate) encoded: &'a [u8],
}

/// The content of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    /// A variable-length number.
    Number(u64),
    /// A text, a nested message, or packed numbers.
    Bytes(&'a [u8]),
    /// A number of 4 or 8 bytes.
    Fixed,
}

/// The fields of a message. Ends after the first malformed field.
pub(crate) fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    let mut rest = Some(message);
    std::iter::from_fn(move || {
        let message = rest.take().filter(|message| !message.is_empty())?;
        let Some((number, content, after)) = field(message) else { return Some(Err(Malformed)) };
        rest = Some(after);
        let encoded = &message[..message.len() - after.len()];
        Some(Ok(Field { number, content, encoded }))
    })
}

/// The last nested message or text in the field `number`.
pub(crate) fn child(message: &[u8], number: u64) -> Result<Option<&[u8]>, Malformed> {
    let mut found = None;
    for field in fields(message) {
        let field = field?;
        if let (Content::Bytes(bytes), true) = (field.content, field.number == number) {
            found = Some(bytes);
        }
    }
    Ok(found)
}

/// A text.
pub(crate) fn text(bytes: &[u8]) -> Result<String, Malformed> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)
}

/// Appends the signed numbers of a repeated field, which are packed or have a field each.
pub(crate) fn push_integers(
    integers: &mut Vec<i64>,
    content: Content<'_>,
) -> Result<(), Malformed> {
    match content {
        Content::Number(number) => integers.push(number.cast_signed()),
        Content::Bytes(mut packed) => {
            while !packed.is_empty() {
                let (number, rest) = varint(packed).ok_or(Malformed)?;
                integers.push(number.cast_signed());
                packed = rest;
            }
        }
        Content::Fixed => return Err(Malformed),
    }
    Ok(())
}

/// Splits the first field off a message.
fn field(message: &[u8]) -> Option<(u64, Content<'_>, &[u8])> {
    let (key, after) = varint(message)?;
    let (content, after) = match key & 7 {
        0 => {
            let (number, after) = varint(after)?;
            (Content::Number(number), after)
        }
        1 => (Content::Fixed, after.get(8..)?),
        2 => {
            let (length, after) = varint(after)?;
            let (bytes, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
            (Content::Bytes(bytes), after)
        }
        5 => (Content::Fixed, after.get(4..)?),
        _ => return None,
    };
    Some((key >> 3, content, after))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends a field with bytes.
pub(crate) fn push_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    push_varint(out, number << 3 | 2);
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A message of fields with bytes, for tests.
#[cfg(test)]
pub(crate) fn message(fields: &[(u64, &[u8])]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, bytes) in fields {
        push_bytes(&mut message, *number, bytes);
    }
    message
}

/// Appends a field with a number, for tests.
#[cfg(test)]
pub(crate) fn push_number(out: &mut Vec<u8>, number: u64, value: u64) {
    push_varint(out, number << 3);
    push_varint(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_is_malformed() {
        for bytes in
            [&b"\x08"[..], b"\x12\x05abc", b"\x0b", b"\x09\x00", b"\x0d\x00\x00", &[0xff; 12]]
        {
            assert!(fields(bytes).any(|field| field.is_err()), "{bytes:?}");
        }
    }

    #[test]
    fn repeated_numbers_are_packed_or_not() {
        let mut integers = Vec::new();
        let packed = [5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        push_integers(&mut integers, Content::Bytes(&packed)).unwrap();
        push_integers(&mut integers, Content::Number(7)).unwrap();
        assert_eq!(integers, [5, -1, 7]);
        assert_eq!(push_integers(&mut integers, Content::Bytes(&[0x80])), Err(Malformed));
    }

    #[test]
    fn fields_are_split_and_numbers_decoded() {
        let mut message = vec![0x08, 0x96, 0x01, 0x0d, 1, 2, 3, 4];
        push_bytes(&mut message, 300, &[7; 200]);
        let fields: Vec<_> = fields(&message).map(Result::unwrap).collect();
        assert_eq!(fields.iter().map(|field| field.number).collect::<Vec<_>>(), [1, 1, 300]);
        assert!(matches!(fields[0].content, Content::Number(150)));
        assert!(matches!(fields[2].content, Content::Bytes(bytes) if bytes == [7; 200]));
        let encoded: Vec<u8> = fields.iter().flat_map(|field| field.encoded.to_vec()).collect();
        assert_eq!(encoded, message);
    }
}
