//! The encoding of protobuf messages: a sequence of numbered fields.

/// The bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::repository) struct Malformed;

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    pub(super) content: Content<'a>,
    /// The whole field: key, length and content.
    pub(super) encoded: &'a [u8],
}

/// The content of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    /// A variable-length number.
    Number(u64),
    /// A text, a nested message, or packed numbers.
    Bytes(&'a [u8]),
    /// A number of 4 or 8 bytes.
    Fixed,
}

/// The fields of a message. Ends after the first malformed field.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    let mut rest = Some(message);
    std::iter::from_fn(move || {
        let message = rest.take().filter(|message| !message.is_empty())?;
        let Some((number, content, after)) = field(message) else { return Some(Err(Malformed)) };
        rest = Some(after);
        let encoded = &message[..message.len() - after.len()];
        Some(Ok(Field { number, content, encoded }))
    })
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
pub(super) fn push_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    push_varint(out, number << 3 | 2);
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
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
