//! The binary tensor data extension: a header with the length of the JSON, and tensors after the
//! JSON as plain little-endian bytes.

use batchfleet_broker::Datatype;
use bytes::Bytes;

use crate::{
    problem::{Problem, quote},
    shape,
};

/// The layout of a body, given by the header `Inference-Header-Content-Length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderLength {
    /// The header is absent: the whole body is JSON.
    Absent,
    /// 0: the body has no JSON and is the model's only input.
    Raw,
    /// The length of the JSON in bytes; tensors follow the JSON.
    Json(usize),
}

impl HeaderLength {
    /// Reads the header's value. Anything but a plain decimal number is a `bad_header`.
    pub fn parse(value: &[u8]) -> Result<Self, Problem> {
        let text = String::from_utf8_lossy(value);
        let plain = value.iter().all(u8::is_ascii_digit);
        match text.parse().ok().filter(|_| plain) {
            Some(0) => Ok(Self::Raw),
            Some(length) => Ok(Self::Json(length)),
            None => Err(Problem::bad(
                "bad_header",
                format!(
                    "Inference-Header-Content-Length should be a number of bytes, not {}",
                    quote(&text)
                ),
            )),
        }
    }
}

/// Splits a body into its JSON and, if the header gave the JSON's length, the tensors after it.
pub(crate) fn split(
    body: &Bytes,
    json_length: Option<usize>,
) -> Result<(Bytes, Option<Tensors>), Problem> {
    let Some(length) = json_length else { return Ok((body.clone(), None)) };
    if length > body.len() {
        let message = format!(
            "Inference-Header-Content-Length is {length}, but the body has {} bytes",
            body.len()
        );
        return Err(Problem::bad("bad_header", message));
    }
    Ok((body.slice(..length), Some(Tensors(body.slice(length..)))))
}

/// The part of a body after its JSON, split off tensor by tensor without copying.
pub(crate) struct Tensors(Bytes);

impl Tensors {
    /// Takes the bytes of the next tensor.
    pub(crate) fn take(&mut self, size: u64) -> Result<Bytes, Problem> {
        match usize::try_from(size) {
            Ok(size) if size <= self.0.len() => Ok(self.0.split_to(size)),
            _ => Err(bad(format!(
                "binary_data_size is {size}, but only {} bytes are left of the body",
                self.0.len()
            ))),
        }
    }

    /// Checks that no bytes follow the last tensor.
    pub(crate) fn end(self) -> Result<(), Problem> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(bad(format!("{left} bytes are left over after the last tensor"))),
        }
    }
}

/// Checks that `data` is a tensor of this datatype and shape: the length is right, every BOOL is 0
/// or 1, and all BYTES elements are complete and match the shape in number.
pub(crate) fn check(data: &[u8], datatype: Datatype, shape: &[u64]) -> Result<(), Problem> {
    if let Some(wanted) = shape::bytes(shape, datatype)?
        && data.len() != wanted
    {
        return Err(bad(format!(
            "{datatype} of shape {shape:?} takes {wanted} bytes, but there are {}",
            data.len()
        )));
    }
    match datatype {
        Datatype::Bool if data.iter().any(|byte| *byte > 1) => {
            Err(bad("a BOOL should be a byte of 0 or 1"))
        }
        Datatype::Bytes => {
            let wanted = shape::elements(shape)?;
            let mut count = 0;
            for element in elements(data) {
                element.ok_or_else(|| bad("a BYTES element extends past the end of the data"))?;
                count += 1;
            }
            if count == wanted {
                return Ok(());
            }
            Err(bad(format!("there are {count} BYTES elements, but the shape has {wanted}")))
        }
        _ => Ok(()),
    }
}

/// The elements of a BYTES tensor; the last is `None` if the data ends inside an element.
pub(crate) fn elements(mut data: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let element = data.split_first_chunk().and_then(|(length, rest)| {
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
        });
        data = element.map_or(&[], |(_, rest)| rest);
        Some(element.map(|(element, _)| element))
    })
}

/// Appends one element to a BYTES tensor.
pub(crate) fn push_element(out: &mut Vec<u8>, element: &[u8]) -> Result<(), Problem> {
    let length = u32::try_from(element.len())
        .map_err(|_| Problem::bad("bad_data", "a BYTES element is 4 GiB or larger"))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(element);
    Ok(())
}

fn bad(message: impl Into<String>) -> Problem {
    Problem::bad("bad_binary", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_must_be_a_plain_number() {
        assert_eq!(HeaderLength::parse(b"0"), Ok(HeaderLength::Raw));
        assert_eq!(HeaderLength::parse(b"123"), Ok(HeaderLength::Json(123)));
        for value in ["", "-1", "+5", "1.5", "0x10", "5,5", " 5", "99999999999999999999", "abc"] {
            assert_eq!(HeaderLength::parse(value.as_bytes()).unwrap_err().code, "bad_header");
        }
    }

    #[test]
    fn tensors_are_slices_of_the_body() {
        let body = Bytes::from_static(b"{}abcdef");
        let (json, tensors) = split(&body, Some(2)).unwrap();
        let mut tensors = tensors.unwrap();
        assert_eq!(json, "{}");
        let first = tensors.take(3).unwrap();
        assert_eq!((first.as_ref(), first.as_ptr()), (&b"abc"[..], body[2..].as_ptr()));
        assert!(tensors.take(4).is_err() && tensors.take(u64::MAX).is_err());
        assert!(tensors.end().is_err());
    }

    #[test]
    fn elements_of_bytes_end_with_the_data() {
        let whole: Vec<_> = elements(b"\x01\0\0\0a\0\0\0\0").collect();
        assert_eq!(whole, [Some(&b"a"[..]), Some(b"")]);
        let cut: Vec<_> = elements(b"\0\0\0\0\x02\0\0\0a").collect();
        assert_eq!(cut, [Some(&b""[..]), None]);
        assert_eq!(elements(b"\0\0").collect::<Vec<_>>(), [None]);
    }
}
