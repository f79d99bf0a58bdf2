//! Tensors: the bytes exactly as the client sent them, never re-encoded.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Element type of a tensor, by its Open Inference Protocol name.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    strum::EnumCount,
    strum::FromRepr,
)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u8)]
pub enum Datatype {
    /// One byte, 0 or 1.
    Bool = 1,
    /// Unsigned 8-bit integer.
    Uint8 = 2,
    /// Unsigned 16-bit integer.
    Uint16 = 3,
    /// Unsigned 32-bit integer.
    Uint32 = 4,
    /// Unsigned 64-bit integer.
    Uint64 = 5,
    /// Signed 8-bit integer.
    Int8 = 6,
    /// Signed 16-bit integer.
    Int16 = 7,
    /// Signed 32-bit integer.
    Int32 = 8,
    /// Signed 64-bit integer.
    Int64 = 9,
    /// IEEE 754 half precision.
    Fp16 = 10,
    /// IEEE 754 single precision.
    Fp32 = 11,
    /// IEEE 754 double precision.
    Fp64 = 12,
    /// bfloat16, the upper half of a single precision number.
    Bf16 = 13,
    /// Byte strings of any length, each preceded by its length as a little-endian `u32`.
    Bytes = 14,
}

impl Datatype {
    /// Every datatype, in the order of its wire code.
    pub const ALL: [Self; <Self as strum::EnumCount>::COUNT] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
        Self::Bf16,
        Self::Bytes,
    ];

    /// Bytes per element; `None` for [`Datatype::Bytes`], whose elements differ in length.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// The protocol's name, such as `FP32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bf16 => "BF16",
            Self::Bytes => "BYTES",
        }
    }

    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The datatype with this wire code.
    pub const fn from_code(code: u8) -> Option<Self> {
        Self::from_repr(code)
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not a datatype of the protocol.
#[derive(Debug, thiserror::Error)]
#[error("unknown datatype {0:?}")]
pub struct UnknownDatatype(pub String);

impl FromStr for Datatype {
    type Err = UnknownDatatype;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.name() == name)
            .ok_or_else(|| UnknownDatatype(name.to_owned()))
    }
}

/// One named input or output: little-endian, row-major bytes. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The name in the model.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions, including the one that counts rows, if the model batches.
    pub shape: Vec<u64>,
    /// The elements.
    pub data: Bytes,
}
