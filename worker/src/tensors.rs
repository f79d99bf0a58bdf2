//! The bytes of a tensor's elements: little-endian numbers of a fixed size, or strings, each
//! preceded by its length in four bytes.

use batchfleet_broker::Datatype;
use bytes::Bytes;

/// The bytes of a string's length. An empty string is its length alone: four zero bytes.
pub(crate) const LENGTH: usize = 4;

/// The bytes of `elements` zeros or empty strings.
pub(crate) fn zeros(datatype: Datatype, elements: u64) -> Bytes {
    let bytes = elements.saturating_mul(datatype.size().unwrap_or(LENGTH) as u64);
    Bytes::from(vec![0; usize::try_from(bytes).unwrap_or_default()])
}

/// Where each element of a [`Datatype::Bytes`] tensor begins.
pub(crate) fn string_offsets(data: &[u8]) -> Vec<usize> {
    let next = |offset: &mut usize, string: &[u8]| {
        let begins = *offset;
        *offset += LENGTH + string.len();
        Some(begins)
    };
    strings(data).map_while(Result::ok).scan(0, next).collect()
}

/// The elements of a [`Datatype::Bytes`] tensor. A length that overruns the data is an error and
/// ends the iterator.
pub(crate) fn strings(mut data: &[u8]) -> impl Iterator<Item = Result<&[u8], Overrun>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let Some((string, rest)) = data
            .split_first_chunk()
            .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize))
        else {
            data = &[];
            return Some(Err(Overrun));
        };
        data = rest;
        Some(Ok(string))
    })
}

/// A string's length reaches beyond the tensor's data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

/// Encodes the elements of a [`Datatype::Bytes`] tensor; each element must be smaller than 4 GiB.
pub(crate) fn encode_strings<S: AsRef<[u8]>>(strings: impl Iterator<Item = S> + Clone) -> Bytes {
    let mut data = Vec::with_capacity(strings.clone().map(|s| LENGTH + s.as_ref().len()).sum());
    for string in strings {
        let string = string.as_ref();
        let length = u32::try_from(string.len()).unwrap_or(u32::MAX);
        data.extend_from_slice(&length.to_le_bytes());
        data.extend_from_slice(&string[..length as usize]);
    }
    data.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_reading_strings_panic(data in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(strings(&data).count() <= data.len());
        }

        #[test]
        fn strings_are_read_as_they_were_encoded(
            elements in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9)
        ) {
            let data = encode_strings(elements.iter());
            let read: Result<Vec<&[u8]>, Overrun> = strings(&data).collect();
            prop_assert_eq!(read.unwrap(), elements);
        }
    }
}
