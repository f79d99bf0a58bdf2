//! Writes the messages `ModelInferResponse` and `ModelStreamInferResponse`.

use std::mem;

use batchfleet_broker::{ModelSpec, Tensor};
use bytes::Bytes;

use super::wire::{put, put_head, put_varint};
use crate::{
    infer::WantedOutput,
    problem::{Problem, quote},
    response::SHARED,
};

/// The name of the parameter that marks the last response to a request.
const FINAL: &str = "triton_final_response";

/// Writes the response with the `wanted` outputs, in pieces, so that large tensors are not copied.
/// `outputs` are the tensors that the model returned, `id` is the client's id for the request.
///
/// # Errors
///
/// Status 500: the model omitted an output.
pub fn encode(
    model: &ModelSpec,
    id: Option<&str>,
    wanted: &[WantedOutput],
    outputs: &[Tensor],
) -> Result<Vec<Bytes>, Problem> {
    write(model, id, wanted, outputs, false).map(|(pieces, _)| pieces)
}

/// As [`encode`], as the message of a stream. A request has one response, which is its last.
///
/// # Errors
///
/// As [`encode`].
pub fn encode_streamed(
    model: &ModelSpec,
    id: Option<&str>,
    wanted: &[WantedOutput],
    outputs: &[Tensor],
) -> Result<Vec<Bytes>, Problem> {
    let (mut pieces, length) = write(model, id, wanted, outputs, true)?;
    let mut head = Vec::with_capacity(16);
    put_head(&mut head, 2, length);
    // The first piece is always a small one of our own.
    match pieces.first_mut() {
        Some(first) => *first = [&head, &first[..]].concat().into(),
        None => pieces.push(head.into()),
    }
    Ok(pieces)
}

/// Writes the message of a stream that answers the request with this `id` with an error.
pub fn error(id: &str, message: &str) -> Bytes {
    let mut response = Vec::new();
    put(&mut response, 3, id.as_bytes());
    put_final(&mut response);
    let mut out = Vec::with_capacity(message.len() + response.len() + 16);
    put(&mut out, 1, message.as_bytes());
    put(&mut out, 2, &response);
    out.into()
}

/// Writes a `ModelInferResponse` in pieces. Returns its length, too.
fn write(
    model: &ModelSpec,
    id: Option<&str>,
    wanted: &[WantedOutput],
    outputs: &[Tensor],
    is_final: bool,
) -> Result<(Vec<Bytes>, usize), Problem> {
    let mut tensors = Vec::with_capacity(wanted.len());
    for output in wanted {
        let tensor = outputs.iter().find(|tensor| tensor.name == output.name).ok_or_else(|| {
            Problem::internal(format!("the model returned no output {}", quote(&output.name)))
        })?;
        tensors.push(tensor);
    }
    let bytes: usize = tensors.iter().map(|tensor| tensor.data.len().min(SHARED)).sum();
    let mut head = Vec::with_capacity(256 + bytes);
    put(&mut head, 1, model.queue.model.as_bytes());
    put(&mut head, 2, model.queue.version.to_string().as_bytes());
    if let Some(id) = id {
        put(&mut head, 3, id.as_bytes());
    }
    if is_final {
        put_final(&mut head);
    }
    for tensor in &tensors {
        put(&mut head, 5, &description(tensor));
    }
    let mut pieces = Vec::with_capacity(1);
    for tensor in tensors {
        put_head(&mut head, 6, tensor.data.len());
        if tensor.data.len() < SHARED {
            head.extend_from_slice(&tensor.data);
        } else {
            pieces.extend([mem::take(&mut head).into(), tensor.data.clone()]);
        }
    }
    if !head.is_empty() {
        pieces.push(head.into());
    }
    let length = pieces.iter().map(Bytes::len).sum();
    Ok((pieces, length))
}

/// The message `InferOutputTensor`, without the elements.
fn description(tensor: &Tensor) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put(&mut out, 1, tensor.name.as_bytes());
    put(&mut out, 2, tensor.datatype.name().as_bytes());
    let mut shape = Vec::with_capacity(16);
    tensor.shape.iter().for_each(|size| put_varint(&mut shape, *size));
    put(&mut out, 3, &shape);
    out
}

/// Appends the parameter that marks the last response to a request, to a `ModelInferResponse`.
fn put_final(out: &mut Vec<u8>) {
    let mut entry = Vec::with_capacity(32);
    put(&mut entry, 1, FINAL.as_bytes());
    // An InferParameter whose field 1, a boolean, is true.
    put(&mut entry, 2, &[1 << 3, 1]);
    put(out, 4, &entry);
}
