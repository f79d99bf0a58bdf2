//! Writes the response to an inference request: JSON, or JSON followed by binary tensors.

use std::{mem, ops::Range};

use batchfleet_broker::{Datatype, ModelSpec, Tensor};
use bytes::Bytes;
use serde::Serialize;

use crate::{
    binary,
    outputs::{WantedOutput, has_json_form},
    problem::{Problem, quote},
    shape,
};

/// Minimum size of binary tensors that are shared instead of copied, in bytes. A smaller tensor may
/// be a slice of a message with many replies. Sharing the slice would keep the whole message in
/// memory while the client reads the response.
pub(crate) const SHARED: usize = 256 << 10;

/// The body of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The number of JSON bytes in the body, for the header `Inference-Header-Content-Length`; the
    /// content type is then `application/octet-stream`. `None` if the whole body is JSON and needs
    /// no header.
    pub json_length: Option<usize>,
    /// The body in pieces, so that large tensors are not copied.
    pub body: Vec<Bytes>,
}

/// Writes the `wanted` outputs in order. `outputs` are the tensors that the model returned, `id` is
/// the client's id for the request.
///
/// # Errors
///
/// Status 400: an output has no JSON form, and the client should request binary data. Status 500:
/// the model returned a malformed output, or omitted one.
pub fn encode(
    model: &ModelSpec,
    id: Option<&str>,
    wanted: &[WantedOutput],
    outputs: &[Tensor],
) -> Result<Encoded, Problem> {
    // Enough for binary outputs and short JSON outputs; long JSON outputs grow the buffer.
    let bytes: usize = outputs.iter().map(|output| output.data.len().min(SHARED)).sum();
    let mut body = Vec::with_capacity(256 + bytes);
    let mut binary = Vec::new();
    body.extend_from_slice(b"{\"model_name\":");
    write(&mut body, &model.queue.model)?;
    body.extend_from_slice(b",\"model_version\":");
    write(&mut body, &model.queue.version.to_string())?;
    if let Some(id) = id {
        body.extend_from_slice(b",\"id\":");
        write(&mut body, id)?;
    }
    body.extend_from_slice(b",\"outputs\":[");
    for (at, output) in wanted.iter().enumerate() {
        let tensor = outputs.iter().find(|tensor| tensor.name == output.name).ok_or_else(|| {
            Problem::internal(format!("the model returned no output {}", quote(&output.name)))
        })?;
        if at > 0 {
            body.push(b',');
        }
        write_output(&mut body, tensor, output.binary)?;
        if output.binary {
            binary.push(&tensor.data);
        }
    }
    body.extend_from_slice(b"]}");
    let has_binary = binary.iter().any(|data| !data.is_empty());
    let json_length = has_binary.then_some(body.len());
    Ok(Encoded { json_length, body: joined(body, &binary) })
}

/// The pieces of a body: the JSON, then the binary tensors.
fn joined(json: Vec<u8>, binary: &[&Bytes]) -> Vec<Bytes> {
    let (mut pieces, mut copied) = (Vec::with_capacity(1), json);
    for data in binary {
        if data.len() < SHARED {
            copied.extend_from_slice(data);
        } else {
            pieces.extend([mem::take(&mut copied).into(), Bytes::clone(data)]);
        }
    }
    pieces.push(copied.into());
    pieces
}

fn write_output(body: &mut Vec<u8>, tensor: &Tensor, binary: bool) -> Result<(), Problem> {
    body.extend_from_slice(b"{\"name\":");
    write(body, &tensor.name)?;
    body.extend_from_slice(b",\"datatype\":");
    write(body, tensor.datatype.name())?;
    body.extend_from_slice(b",\"shape\":");
    write(body, &tensor.shape)?;
    if binary {
        body.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
        write(body, &tensor.data.len())?;
        body.extend_from_slice(b"}}");
        return Ok(());
    }
    check(tensor)?;
    body.extend_from_slice(b",\"data\":[");
    let non_finite = write_elements(body, tensor, &mut Layout::Flat)?;
    body.push(b']');
    if non_finite > 0 {
        body.extend_from_slice(b",\"parameters\":{\"non_finite\":");
        write(body, &non_finite)?;
        body.push(b'}');
    }
    body.push(b'}');
    Ok(())
}

/// Refuses a tensor that has no JSON form. Checks the worker's tensor like a client's, so that a
/// malformed tensor causes an error response.
fn check(tensor: &Tensor) -> Result<(), Problem> {
    has_json_form(&tensor.name, tensor.datatype)?;
    binary::check(&tensor.data, tensor.datatype, &tensor.shape)
        .map_err(|problem| Problem::internal(problem.message).within(&tensor.name))
}

/// A tensor as nested JSON arrays.
#[derive(Debug, Default)]
pub(crate) struct Nested {
    /// The JSON.
    pub(crate) text: Vec<u8>,
    /// Where the members of the outer array are.
    pub(crate) rows: Vec<Range<usize>>,
}

/// Writes a tensor as nested JSON arrays. A tensor without elements is an empty array.
pub(crate) fn nested(tensor: &Tensor) -> Result<Nested, Problem> {
    check(tensor)?;
    let Nested { mut text, mut rows } = Nested::default();
    if shape::elements(&tensor.shape)? == 0 {
        text.extend_from_slice(b"[]");
    } else {
        let mut layout = Layout::Nested { shape: &tensor.shape, rows: &mut rows };
        write_elements(&mut text, tensor, &mut layout)?;
    }
    Ok(Nested { text, rows })
}

/// How elements are written.
enum Layout<'a> {
    /// One after the other.
    Flat,
    /// In nested arrays. Finds where the members of the outer array are.
    Nested { shape: &'a [u64], rows: &'a mut Vec<Range<usize>> },
}

/// Writes the elements of a tensor. NaN and infinities do not exist in JSON and become `null`.
/// Returns the number of such elements.
fn write_elements(
    body: &mut Vec<u8>,
    tensor: &Tensor,
    layout: &mut Layout<'_>,
) -> Result<usize, Problem> {
    let data = tensor.data.as_ref();
    match tensor.datatype {
        Datatype::Bool => write_all(body, layout, data.iter().map(|byte| *byte != 0))?,
        Datatype::Uint8 => write_all(body, layout, data)?,
        Datatype::Uint16 => write_all(body, layout, numbers(data, u16::from_le_bytes))?,
        Datatype::Uint32 => write_all(body, layout, numbers(data, u32::from_le_bytes))?,
        Datatype::Uint64 => write_all(body, layout, numbers(data, u64::from_le_bytes))?,
        Datatype::Int8 => write_all(body, layout, numbers(data, i8::from_le_bytes))?,
        Datatype::Int16 => write_all(body, layout, numbers(data, i16::from_le_bytes))?,
        Datatype::Int32 => write_all(body, layout, numbers(data, i32::from_le_bytes))?,
        Datatype::Int64 => write_all(body, layout, numbers(data, i64::from_le_bytes))?,
        Datatype::Fp32 => {
            write_all(body, layout, numbers(data, f32::from_le_bytes))?;
            return Ok(numbers(data, f32::from_le_bytes).filter(|x| !x.is_finite()).count());
        }
        Datatype::Fp64 => {
            write_all(body, layout, numbers(data, f64::from_le_bytes))?;
            return Ok(numbers(data, f64::from_le_bytes).filter(|x| !x.is_finite()).count());
        }
        Datatype::Bytes => {
            let texts: Option<Vec<&str>> =
                binary::elements(data).map(|element| std::str::from_utf8(element?).ok()).collect();
            write_all(body, layout, texts.ok_or_else(|| not_text(&tensor.name))?)?;
        }
        // Refused earlier, by `has_json_form`.
        Datatype::Fp16 | Datatype::Bf16 => {}
    }
    Ok(0)
}

fn numbers<const N: usize, T>(data: &[u8], from: fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    data.as_chunks().0.iter().map(move |bytes| from(*bytes))
}

fn write_all<T: Serialize>(
    body: &mut Vec<u8>,
    layout: &mut Layout<'_>,
    values: impl IntoIterator<Item = T>,
) -> Result<(), Problem> {
    if let Layout::Nested { shape, rows } = layout {
        return nest(body, shape, &mut values.into_iter(), Some(rows));
    }
    for (at, value) in values.into_iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        write(body, &value)?;
    }
    Ok(())
}

/// Writes the next elements as arrays of this shape. Appends to `rows` where the members of the outer
/// array are.
fn nest<T: Serialize>(
    body: &mut Vec<u8>,
    shape: &[u64],
    values: &mut impl Iterator<Item = T>,
    mut rows: Option<&mut Vec<Range<usize>>>,
) -> Result<(), Problem> {
    let Some((length, inner)) = shape.split_first() else {
        return values.next().map_or(Ok(()), |value| write(body, &value));
    };
    body.push(b'[');
    for at in 0..*length {
        if at > 0 {
            body.push(b',');
        }
        let start = body.len();
        nest(body, inner, values, None)?;
        if let Some(rows) = &mut rows {
            rows.push(start..body.len());
        }
    }
    body.push(b']');
    Ok(())
}

pub(crate) fn write(body: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<(), Problem> {
    serde_json::to_writer(body, value).map_err(|error| Problem::internal(error.to_string()))
}

fn not_text(output: &str) -> Problem {
    Problem::unsupported(format!(
        "output {} holds bytes that are not UTF-8, which cannot be written as JSON; ask for binary_data",
        quote(output)
    ))
}
