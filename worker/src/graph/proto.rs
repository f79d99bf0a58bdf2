//! The parts of ONNX's protobuf messages that this program reads. All other fields are skipped, the
//! weights among them.

use bytes::{Buf, BufMut};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType, skip_field},
};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "25")]
    pub(super) functions: Vec<FunctionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FunctionProto {
    #[prost(message, repeated, tag = "7")]
    pub(super) node: Vec<NodeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    pub(super) initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub(super) input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub(super) output: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) output: Vec<String>,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attribute: Vec<AttributeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AttributeProto {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int64, tag = "3")]
    pub(super) i: i64,
    #[prost(message, optional, tag = "5")]
    pub(super) t: Option<TensorProto>,
    #[prost(message, optional, tag = "6")]
    pub(super) g: Option<GraphProto>,
    #[prost(message, repeated, tag = "11")]
    pub(super) graphs: Vec<GraphProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) kind: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorTypeProto {
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) dim: Vec<DimensionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DimensionProto {
    #[prost(int64, optional, tag = "1")]
    pub(super) dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(super) dim_param: Option<String>,
}

/// The data type code of 64-bit integers.
pub(super) const INT64: i32 = 7;

/// Longer data is weights, and is skipped.
const MOST_BYTES: usize = 1024;

/// A tensor without its data, unless the data is short. Implemented by hand, because a derived
/// message would read the weights into memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TensorProto {
    pub(super) dims: Vec<i64>,
    pub(super) data_type: i32,
    pub(super) name: String,
    /// Little-endian numbers; empty if they are many.
    pub(super) raw_data: Vec<u8>,
    /// Empty if they are many.
    pub(super) int64_data: Vec<i64>,
}

impl TensorProto {
    /// The elements of a small tensor of 64-bit integers.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        if self.data_type != INT64 {
            return None;
        }
        let raw = self.raw_data.as_chunks().0.iter().copied().map(i64::from_le_bytes);
        let integers: Vec<i64> = raw.chain(self.int64_data.iter().copied()).collect();
        (i64::try_from(integers.len()) == Ok(self.dims.iter().product())).then_some(integers)
    }
}

impl Message for TensorProto {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        encoding::int64::encode_packed(1, &self.dims, buf);
        encoding::int32::encode(2, &self.data_type, buf);
        encoding::int64::encode_packed(7, &self.int64_data, buf);
        encoding::string::encode(8, &self.name, buf);
        encoding::bytes::encode(9, &self.raw_data, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => encoding::int64::merge_repeated(wire_type, &mut self.dims, buf, ctx),
            2 => encoding::int32::merge(wire_type, &mut self.data_type, buf, ctx),
            7 if wire_type == WireType::LengthDelimited => {
                let packed = short_bytes(buf)?;
                let mut packed = packed.as_slice();
                while packed.has_remaining() {
                    let integer = encoding::decode_varint(&mut packed)?;
                    self.int64_data.push(integer.cast_signed());
                }
                Ok(())
            }
            7 => encoding::int64::merge_repeated(wire_type, &mut self.int64_data, buf, ctx),
            8 => encoding::string::merge(wire_type, &mut self.name, buf, ctx),
            9 => {
                encoding::check_wire_type(WireType::LengthDelimited, wire_type)?;
                self.raw_data = short_bytes(buf)?;
                Ok(())
            }
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        encoding::int64::encoded_len_packed(1, &self.dims)
            + encoding::int32::encoded_len(2, &self.data_type)
            + encoding::int64::encoded_len_packed(7, &self.int64_data)
            + encoding::string::encoded_len(8, &self.name)
            + encoding::bytes::encoded_len(9, &self.raw_data)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Reads bytes that are preceded by their length; skips them and returns nothing if they are many.
fn short_bytes(buf: &mut impl Buf) -> Result<Vec<u8>, DecodeError> {
    let length = encoding::decode_varint(buf)?;
    // A length beyond the end leaves a message that is too short, which its decoder reports.
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(buf.remaining());
    let mut bytes = Vec::new();
    if length <= MOST_BYTES {
        bytes.resize(length, 0);
        buf.copy_to_slice(&mut bytes);
    } else {
        buf.advance(length);
    }
    Ok(bytes)
}
