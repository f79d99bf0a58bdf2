//! Converts a tensor written as JSON to its bytes.

use std::str::FromStr;

use batchfleet_broker::Datatype;

use crate::{
    binary,
    json::{Kind, Reader},
    number::Number,
    problem::{Problem, quote},
    shape,
};

/// Maximum length of a BYTES element written as JSON, in bytes.
const MAX_ELEMENT_BYTES: usize = 16 << 20;

/// Maximum nesting depth of the arrays in `data`.
const MAX_NESTING: usize = 100;

/// Reads the `data` of a tensor: its elements in row-major order, in arrays nested in any way.
/// Returns the elements as little-endian bytes.
///
/// The only type conversion: an integer may be written for a float.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    datatype: Datatype,
    shape: &[u64],
) -> Result<Vec<u8>, Problem> {
    match datatype {
        Datatype::Bool => values(reader, shape, |reader| {
            if reader.kind()? != Kind::Bool {
                return Err(mismatch(reader, datatype));
            }
            Ok([u8::from(reader.bool()?)])
        }),
        Datatype::Uint8 => values(reader, shape, |r| integer(r, datatype).map(u8::to_le_bytes)),
        Datatype::Uint16 => values(reader, shape, |r| integer(r, datatype).map(u16::to_le_bytes)),
        Datatype::Uint32 => values(reader, shape, |r| integer(r, datatype).map(u32::to_le_bytes)),
        Datatype::Uint64 => values(reader, shape, |r| integer(r, datatype).map(u64::to_le_bytes)),
        Datatype::Int8 => values(reader, shape, |r| integer(r, datatype).map(i8::to_le_bytes)),
        Datatype::Int16 => values(reader, shape, |r| integer(r, datatype).map(i16::to_le_bytes)),
        Datatype::Int32 => values(reader, shape, |r| integer(r, datatype).map(i32::to_le_bytes)),
        Datatype::Int64 => values(reader, shape, |r| integer(r, datatype).map(i64::to_le_bytes)),
        Datatype::Fp32 => values(reader, shape, |r| single(r).map(f32::to_le_bytes)),
        Datatype::Fp64 => values(reader, shape, |r| double(r).map(f64::to_le_bytes)),
        Datatype::Bytes => strings(reader, shape),
        Datatype::Fp16 | Datatype::Bf16 => Err(Problem::unsupported(format!(
            "{datatype} cannot be written as JSON; send it as binary data"
        ))),
    }
}

/// Reads elements of `N` bytes each.
fn values<'a, const N: usize>(
    reader: &mut Reader<'a>,
    shape: &[u64],
    mut read: impl FnMut(&mut Reader<'a>) -> Result<[u8; N], Problem>,
) -> Result<Vec<u8>, Problem> {
    let mut out = Vec::with_capacity(count(reader, shape)? * N);
    tensor(reader, shape, &mut |reader| {
        out.extend_from_slice(&read(reader)?);
        Ok(())
    })?;
    Ok(out)
}

fn strings(reader: &mut Reader<'_>, shape: &[u64]) -> Result<Vec<u8>, Problem> {
    let mut out = Vec::new();
    tensor(reader, shape, &mut |reader| {
        if reader.kind()? != Kind::Text {
            return Err(mismatch(reader, Datatype::Bytes));
        }
        let element = reader.text()?;
        if element.len() > MAX_ELEMENT_BYTES {
            return Err(bad(format!(
                "a BYTES element has {} bytes, more than the {MAX_ELEMENT_BYTES} allowed",
                element.len()
            )));
        }
        binary::push_element(&mut out, element.as_bytes())
    })?;
    Ok(out)
}

#[inline]
fn integer<T: FromStr>(reader: &mut Reader<'_>, datatype: Datatype) -> Result<T, Problem> {
    let number = reader.number().ok_or_else(|| mismatch(reader, datatype))?;
    number.to_integer().ok_or_else(|| out_of_range(&number, datatype))
}

#[inline]
fn single(reader: &mut Reader<'_>) -> Result<f32, Problem> {
    let number = reader.number().ok_or_else(|| mismatch(reader, Datatype::Fp32))?;
    number.to_f32().ok_or_else(|| out_of_range(&number, Datatype::Fp32))
}

#[inline]
fn double(reader: &mut Reader<'_>) -> Result<f64, Problem> {
    let number = reader.number().ok_or_else(|| mismatch(reader, Datatype::Fp64))?;
    number.to_f64().ok_or_else(|| out_of_range(&number, Datatype::Fp64))
}

#[cold]
fn out_of_range(number: &Number<'_>, datatype: Datatype) -> Problem {
    let text = quote(number.text);
    match number.to_f64() {
        Some(_) => bad(format!("{text} is not a valid {datatype}")),
        // Out of range for a double. JSON parsers usually call such a number malformed.
        None => Problem::bad("bad_json", format!("the JSON is malformed: {text} is out of range")),
    }
}

/// The problem of a value that is not an element of `datatype`, or of malformed JSON.
#[cold]
fn mismatch(reader: &mut Reader<'_>, datatype: Datatype) -> Problem {
    let kind = match reader.kind() {
        Ok(kind) => kind,
        Err(problem) => return problem,
    };
    match reader.skip() {
        Err(problem) => problem,
        Ok(()) => bad(format!("{kind} is not a valid {datatype}")),
    }
}

/// Reads the arrays of a tensor down to its elements; `element` reads one element.
fn tensor<'a>(
    reader: &mut Reader<'a>,
    shape: &[u64],
    element: &mut impl FnMut(&mut Reader<'a>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let wanted = count(reader, shape)?;
    let mut found = 0;
    members(reader, 0, &mut |reader| {
        found += 1;
        if found > wanted {
            reader.skip()?;
            return Err(bad(format!("data has more than the {wanted} values of its shape")));
        }
        element(reader)
    })?;
    if found < wanted {
        return Err(bad(format!("data has {found} values, but its shape has {wanted}")));
    }
    Ok(())
}

/// Reads an element, or an array of elements and arrays.
fn members<'a>(
    reader: &mut Reader<'a>,
    depth: usize,
    element: &mut impl FnMut(&mut Reader<'a>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    if !reader.at_array() {
        return element(reader);
    }
    if depth == MAX_NESTING {
        let message = format!("data is nested in more than {MAX_NESTING} arrays");
        return Err(Problem::bad("bad_json", message));
    }
    reader.array(|reader| members(reader, depth + 1, element))
}

/// The number of elements of the shape. Fails if the remaining text is too short for them, so that
/// a large shape without data never makes the caller allocate memory.
fn count(reader: &Reader<'_>, shape: &[u64]) -> Result<usize, Problem> {
    let count = shape::elements(shape)?;
    // An element takes at least 1 byte, and the comma or bracket after it another byte.
    if count > reader.remaining() / 2 {
        return Err(bad(format!("data has fewer than the {count} values of its shape")));
    }
    Ok(count)
}

fn bad(message: impl Into<String>) -> Problem {
    Problem::bad("bad_data", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(datatype: Datatype, shape: &[u64], text: &str) -> Result<Vec<u8>, Problem> {
        read(&mut Reader::new(text.as_bytes()).unwrap(), datatype, shape)
    }

    #[test]
    fn nested_and_flat_arrays_give_the_same_bytes() {
        let flat = of(Datatype::Int16, &[2, 1, 2], "[1, 2, -3, 4]").unwrap();
        assert_eq!(flat, [1, 0, 2, 0, 253, 255, 4, 0]);
        assert_eq!(of(Datatype::Int16, &[2, 1, 2], "[[[1,2]],[[-3,4]]]").unwrap(), flat);
        assert_eq!(
            of(Datatype::Int16, &[2, 0], "[[],[]]").unwrap(),
            of(Datatype::Int16, &[2, 0], "[]").unwrap()
        );
        assert_eq!(of(Datatype::Fp64, &[], "[1]").unwrap(), 1f64.to_le_bytes());
        assert_eq!(of(Datatype::Fp64, &[], "1 ").unwrap(), 1f64.to_le_bytes());
    }

    #[test]
    fn elements_count_in_their_order_however_they_are_nested() {
        let flat = of(Datatype::Uint8, &[2, 2], "[1,2,3,4]").unwrap();
        for nested in ["[[1,2,3,4]]", "[[1],[2,3,4]]", "[1,[2,[3,[[4]]]]]", "[[],[1,2],[3,4,[]]]"] {
            assert_eq!(of(Datatype::Uint8, &[2, 2], nested).unwrap(), flat, "{nested}");
        }
        let deep = |depth: usize| ["[".repeat(depth).as_str(), "7", &"]".repeat(depth)].concat();
        assert_eq!(of(Datatype::Uint8, &[1, 1], &deep(100)).unwrap(), [7]);
        assert_eq!(of(Datatype::Uint8, &[1, 1], &deep(101)).unwrap_err().code, "bad_json");
        let words = [1, 0, 0, 0, b'a', 1, 0, 0, 0, b'b'];
        assert_eq!(of(Datatype::Bytes, &[2], r#"[["a"],["b"]]"#).unwrap(), words);
    }

    #[test]
    fn a_number_of_elements_that_differs_from_the_shape_is_refused() {
        for text in
            ["[[1,2],[3]]", "[[1,2],3,4,5]", "[1,2,[3]]", "[[],[]]", "[[[1,2]],[[3,4,5]]]", "1"]
        {
            assert_eq!(of(Datatype::Uint8, &[2, 2], text).unwrap_err().code, "bad_data", "{text}");
        }
    }

    #[test]
    fn strings_become_length_and_bytes_up_to_16_mib() {
        assert_eq!(
            of(Datatype::Bytes, &[2], r#"["", "é\u0000"]"#).unwrap(),
            b"\0\0\0\0\x03\0\0\0\xc3\xa9\0"
        );
        let string = |length| format!("[\"{}\"]", "x".repeat(length));
        assert!(of(Datatype::Bytes, &[1], &string(MAX_ELEMENT_BYTES)).is_ok());
        let too_long = of(Datatype::Bytes, &[1], &string(MAX_ELEMENT_BYTES + 1));
        assert_eq!(too_long.unwrap_err().code, "bad_data");
    }

    #[test]
    fn a_shape_alone_reserves_no_memory() {
        assert_eq!(of(Datatype::Fp64, &[u64::MAX / 16], "[1,2,3]").unwrap_err().code, "bad_data");
    }
}
