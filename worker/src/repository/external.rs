//! External data in the bytes of an ONNX model: tensors whose values are in other files.
//!
//! Works on the protobuf encoding, so that a model's weights are neither decoded nor copied.

use crate::protobuf::{Content, DEEPEST, Field, Malformed, fields, push_bytes};

/// Where the values of a tensor are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExternalTensor {
    /// The file, as the model names it.
    pub(super) location: String,
    /// The first byte in the file.
    pub(super) offset: u64,
    /// The number of bytes; `None` for all bytes up to the end of the file.
    pub(super) length: Option<u64>,
    /// Whether the values can be used where they are in the file, which a processor may refuse for
    /// values that are not a multiple of their size from its begin.
    pub(super) is_aligned: bool,
    /// Whether the tensor is an initializer of the main graph. ONNX Runtime takes the data of these
    /// tensors from memory, but reads those of nested graphs and constants from the disk.
    pub(super) is_initializer: bool,
}

/// Returns the tensors of a model with external data.
pub(super) fn external_tensors(model: &[u8]) -> Result<Vec<ExternalTensor>, Malformed> {
    let mut found = Vec::new();
    visit(Kind::Model, model, 0, &mut |tensor, is_initializer| {
        found.extend(external(tensor, is_initializer)?);
        Ok(())
    })?;
    Ok(found)
}

/// Copies the external data of every tensor that is no initializer of the main graph into the
/// model. Returns `None` if the model has no such tensor. `data` returns the bytes of a tensor.
pub(super) fn embed<'a>(
    model: &[u8],
    data: &impl Fn(&ExternalTensor) -> Option<&'a [u8]>,
) -> Result<Option<Vec<u8>>, Malformed> {
    rewrite(Kind::Model, model, 0, data)
}

/// The kinds of messages that may contain tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    MainGraph,
    Graph,
    Function,
    Node,
    Attribute,
    Sparse,
    /// An initializer of the main graph.
    Initializer,
    Tensor,
}

impl Kind {
    /// The kind of message in a field, if it may contain tensors. The numbers are those of
    /// `onnx.proto`.
    const fn of_field(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) => Self::MainGraph,
            (Self::Model, 25) => Self::Function,
            (Self::MainGraph, 5) => Self::Initializer,
            (Self::MainGraph | Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::MainGraph | Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            (Self::Function, 11) | (Self::Node, 5) => Self::Attribute,
            (Self::Attribute, 6 | 11) => Self::Graph,
            _ => return None,
        })
    }
}

/// The message in a field, with its kind, if it may contain tensors.
fn child<'a>(kind: Kind, field: &Field<'a>) -> Option<(Kind, &'a [u8])> {
    match field.content {
        Content::Bytes(bytes) => kind.of_field(field.number).map(|kind| (kind, bytes)),
        Content::Number(_) | Content::Fixed => None,
    }
}

/// Calls `with` for every tensor in a message.
fn visit<'a>(
    kind: Kind,
    message: &'a [u8],
    depth: u32,
    with: &mut impl FnMut(&'a [u8], bool) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    if matches!(kind, Kind::Tensor | Kind::Initializer) {
        return with(message, kind == Kind::Initializer);
    }
    if depth > DEEPEST {
        return Err(Malformed);
    }
    for field in fields(message) {
        if let Some((kind, bytes)) = child(kind, &field?) {
            visit(kind, bytes, depth + 1, with)?;
        }
    }
    Ok(())
}

/// Returns the message with embedded data, `None` if it does not change.
fn rewrite<'a>(
    kind: Kind,
    message: &[u8],
    depth: u32,
    data: &impl Fn(&ExternalTensor) -> Option<&'a [u8]>,
) -> Result<Option<Vec<u8>>, Malformed> {
    match kind {
        Kind::Initializer => return Ok(None),
        Kind::Tensor => {
            let Some(tensor) = external(message, false)? else { return Ok(None) };
            return Ok(data(&tensor).map(|data| with_data(message, data)));
        }
        _ if depth > DEEPEST => return Err(Malformed),
        _ => {}
    }
    let mut changed: Option<Vec<u8>> = None;
    let mut at = 0;
    for field in fields(message) {
        let field = field?;
        let new = match child(kind, &field) {
            Some((kind, bytes)) => rewrite(kind, bytes, depth + 1, data)?,
            None => None,
        };
        if let Some(new) = new {
            push_bytes(changed.get_or_insert_with(|| message[..at].to_vec()), field.number, &new);
        } else if let Some(changed) = &mut changed {
            changed.extend_from_slice(field.encoded);
        }
        at += field.encoded.len();
    }
    Ok(changed)
}

/// The fields of `TensorProto` and of its entries about external data.
mod number {
    pub(super) const DATA_TYPE: u64 = 2;
    pub(super) const RAW_DATA: u64 = 9;
    pub(super) const EXTERNAL_DATA: u64 = 13;
    pub(super) const DATA_LOCATION: u64 = 14;
    pub(super) const KEY: u64 = 1;
    pub(super) const VALUE: u64 = 2;
}

/// The value of `TensorProto.DataLocation` for external data.
const EXTERNAL: u64 = 1;

/// The size of a value in bytes, by the number of its type in `TensorProto.DataType`. A complex
/// number is two values.
const fn size(data_type: u64) -> u64 {
    match data_type {
        4 | 5 | 10 | 16 => 2,
        1 | 6 | 12 | 14 => 4,
        7 | 11 | 13 | 15 => 8,
        _ => 1,
    }
}

/// Reads where the values of a tensor are, `None` if they are in the model.
fn external(tensor: &[u8], is_initializer: bool) -> Result<Option<ExternalTensor>, Malformed> {
    let (mut is_external, mut data_type) = (false, 0);
    let mut found = ExternalTensor {
        location: String::new(),
        offset: 0,
        length: None,
        is_aligned: true,
        is_initializer,
    };
    for field in fields(tensor) {
        let field = field?;
        match (field.number, field.content) {
            (number::DATA_LOCATION, Content::Number(location)) => {
                is_external = location == EXTERNAL;
            }
            (number::DATA_TYPE, Content::Number(number)) => data_type = number,
            (number::EXTERNAL_DATA, Content::Bytes(entry)) => {
                let (key, value) = entry_of(entry)?;
                match key {
                    "location" => value.clone_into(&mut found.location),
                    "offset" => found.offset = value.parse().map_err(|_| Malformed)?,
                    "length" => found.length = Some(value.parse().map_err(|_| Malformed)?),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    found.is_aligned = found.offset.is_multiple_of(size(data_type));
    Ok(is_external.then_some(found))
}

/// Reads a `StringStringEntryProto`.
fn entry_of(entry: &[u8]) -> Result<(&str, &str), Malformed> {
    let (mut key, mut value) = ("", "");
    for field in fields(entry) {
        let field = field?;
        if let Content::Bytes(bytes) = field.content {
            let text = str::from_utf8(bytes).map_err(|_| Malformed)?;
            match field.number {
                number::KEY => key = text,
                number::VALUE => value = text,
                _ => {}
            }
        }
    }
    Ok((key, value))
}

/// The tensor with its values in the model. `external` has read the tensor before, so it has no
/// malformed field.
fn with_data(tensor: &[u8], data: &[u8]) -> Vec<u8> {
    let is_external = |number| matches!(number, number::EXTERNAL_DATA | number::DATA_LOCATION);
    let mut new = Vec::with_capacity(tensor.len() + data.len() + 16);
    for field in fields(tensor).filter_map(Result::ok).filter(|field| !is_external(field.number)) {
        new.extend_from_slice(field.encoded);
    }
    push_bytes(&mut new, number::RAW_DATA, data);
    new
}

/// A model for tests: its initializers have 8 bytes of data each, at the begin of these files.
#[cfg(test)]
pub(super) fn example(files: &[&str]) -> Vec<u8> {
    let mut graph = Vec::new();
    for file in files {
        push_bytes(&mut graph, 5, &tests::tensor(file, "0", Some("8")));
    }
    let mut model = Vec::new();
    push_bytes(&mut model, 7, &graph);
    model
}

#[cfg(test)]
mod tests;
