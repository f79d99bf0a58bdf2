//! Conversion between tensors and ONNX Runtime's values.

use std::fmt::Debug;

use batchfleet_broker::{Datatype, Tensor, TensorSpec};
use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};
use ort::{
    session::{OverridableInitializer, SessionInputValue},
    value::{
        DynTensor, DynValue, Outlet, PrimitiveTensorElementType, Tensor as OrtTensor,
        TensorElementType, TensorRef, ValueType,
    },
};

use crate::tensors;

// Jobs and replies hold tensors as little-endian bytes, which are passed to the library unchanged.
const _: () = assert!(cfg!(target_endian = "little"), "only little-endian machines are supported");

/// The spec of a model's input or output. The error names the unsupported property.
pub(super) fn tensor_spec(outlet: &Outlet) -> Result<TensorSpec, String> {
    // ONNX Runtime takes a tensor for an optional tensor.
    let (value, optional) = match outlet.dtype() {
        ValueType::Optional(value) => (&**value, true),
        value => (value, false),
    };
    Ok(TensorSpec { optional, ..spec(outlet.name(), value)? })
}

/// The spec of an input for which the model has a default value: one value for all rows. `None` if
/// the protocol has no form for it; the model then always uses its default.
pub(super) fn default_spec(default: &OverridableInitializer) -> Option<TensorSpec> {
    let spec = spec(default.name(), default.dtype()).ok()?;
    Some(TensorSpec { optional: true, row_axis: None, ..spec })
}

fn spec(name: &str, value: &ValueType) -> Result<TensorSpec, String> {
    let (Some(kind), Some(shape)) = (value.tensor_type(), value.tensor_shape()) else {
        return Err(format!("{name:?} is not a tensor"));
    };
    let datatype =
        datatype(kind).ok_or_else(|| format!("{name:?} is of {kind}, which the protocol lacks"))?;
    Ok(TensorSpec::new(name, datatype, shape.to_vec()))
}

fn datatype(kind: TensorElementType) -> Option<Datatype> {
    Some(match kind {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}

/// The library's type of the elements. An error for strings, which have no fixed size.
pub(super) fn element_type(datatype: Datatype) -> ort::Result<TensorElementType> {
    Ok(match datatype {
        Datatype::Bool => TensorElementType::Bool,
        Datatype::Uint8 => TensorElementType::Uint8,
        Datatype::Uint16 => TensorElementType::Uint16,
        Datatype::Uint32 => TensorElementType::Uint32,
        Datatype::Uint64 => TensorElementType::Uint64,
        Datatype::Int8 => TensorElementType::Int8,
        Datatype::Int16 => TensorElementType::Int16,
        Datatype::Int32 => TensorElementType::Int32,
        Datatype::Int64 => TensorElementType::Int64,
        Datatype::Fp16 => TensorElementType::Float16,
        Datatype::Fp32 => TensorElementType::Float32,
        Datatype::Fp64 => TensorElementType::Float64,
        Datatype::Bf16 => TensorElementType::Bfloat16,
        Datatype::Bytes => return Err(ort::Error::new("strings have no memory on a device")),
    })
}

/// Converts an input for a run.
pub(super) fn to_ort(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    match tensor.datatype {
        Datatype::Bool => {
            // Only bytes other than 0 and 1 are copied.
            if let Ok(flags) = bytemuck::checked::try_cast_slice::<u8, bool>(&tensor.data) {
                return Ok(TensorRef::from_array_view((dims(tensor)?, flags))?.into());
            }
            let flags: Vec<bool> = tensor.data.iter().map(|&byte| byte != 0).collect();
            Ok(OrtTensor::from_array((dims(tensor)?, flags))?.into())
        }
        Datatype::Uint8 => numbers::<u8>(tensor),
        Datatype::Uint16 => numbers::<u16>(tensor),
        Datatype::Uint32 => numbers::<u32>(tensor),
        Datatype::Uint64 => numbers::<u64>(tensor),
        Datatype::Int8 => numbers::<i8>(tensor),
        Datatype::Int16 => numbers::<i16>(tensor),
        Datatype::Int32 => numbers::<i32>(tensor),
        Datatype::Int64 => numbers::<i64>(tensor),
        Datatype::Fp16 => numbers::<f16>(tensor),
        Datatype::Fp32 => numbers::<f32>(tensor),
        Datatype::Fp64 => numbers::<f64>(tensor),
        Datatype::Bf16 => numbers::<bf16>(tensor),
        Datatype::Bytes => {
            let strings = tensors::strings(&tensor.data).collect::<Result<Vec<&[u8]>, _>>();
            let overrun = |_| ort::Error::new("a string's length overruns the data");
            let strings = strings.map_err(overrun)?;
            Ok(batchfleet_ort_strings::tensor(dims(tensor)?, &strings)?.into())
        }
    }
}

/// Converts a tensor of numbers. The library reads the bytes in place; only misaligned bytes are
/// copied.
fn numbers<T>(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>>
where
    T: PrimitiveTensorElementType + Pod + Debug,
{
    let dims = dims(tensor)?;
    Ok(if let Ok(elements) = bytemuck::try_cast_slice::<u8, T>(&tensor.data) {
        TensorRef::from_array_view((dims, elements))?.into()
    } else {
        let elements: Vec<T> = bytemuck::pod_collect_to_vec(&tensor.data);
        OrtTensor::from_array((dims, elements))?.into()
    })
}

/// Writes a tensor's elements into a value of the same type and shape.
pub(super) fn fill(value: &mut DynTensor, tensor: &Tensor) -> ort::Result<()> {
    match tensor.datatype {
        Datatype::Bool => {
            let (_, flags) = value.try_extract_tensor_mut::<bool>()?;
            for (flag, &byte) in flags.iter_mut().zip(&tensor.data) {
                *flag = byte != 0;
            }
            Ok(())
        }
        Datatype::Uint8 => fill_numbers::<u8>(value, tensor),
        Datatype::Uint16 => fill_numbers::<u16>(value, tensor),
        Datatype::Uint32 => fill_numbers::<u32>(value, tensor),
        Datatype::Uint64 => fill_numbers::<u64>(value, tensor),
        Datatype::Int8 => fill_numbers::<i8>(value, tensor),
        Datatype::Int16 => fill_numbers::<i16>(value, tensor),
        Datatype::Int32 => fill_numbers::<i32>(value, tensor),
        Datatype::Int64 => fill_numbers::<i64>(value, tensor),
        Datatype::Fp16 => fill_numbers::<f16>(value, tensor),
        Datatype::Fp32 => fill_numbers::<f32>(value, tensor),
        Datatype::Fp64 => fill_numbers::<f64>(value, tensor),
        Datatype::Bf16 => fill_numbers::<bf16>(value, tensor),
        Datatype::Bytes => Err(ort::Error::new("strings have no memory on a device")),
    }
}

fn fill_numbers<T>(value: &mut DynTensor, tensor: &Tensor) -> ort::Result<()>
where
    T: PrimitiveTensorElementType + Pod,
{
    let (_, elements) = value.try_extract_tensor_mut::<T>()?;
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(elements);
    if bytes.len() != tensor.data.len() {
        return Err(ort::Error::new("an input has another size than its memory"));
    }
    bytes.copy_from_slice(&tensor.data);
    Ok(())
}

/// The sizes of a tensor's dimensions.
pub(super) fn dims(tensor: &Tensor) -> ort::Result<Vec<i64>> {
    let too_large = |_| ort::Error::new("a dimension is too large");
    tensor.shape.iter().map(|&dim| i64::try_from(dim).map_err(too_large)).collect()
}

/// Converts an output of a run.
pub(super) fn from_ort(spec: &TensorSpec, value: &DynValue) -> ort::Result<Tensor> {
    let (shape, data) = match spec.datatype {
        Datatype::Bool => {
            let (shape, flags) = value.try_extract_tensor::<bool>()?;
            (shape, Bytes::copy_from_slice(bytemuck::cast_slice(flags)))
        }
        Datatype::Uint8 => elements::<u8>(value)?,
        Datatype::Uint16 => elements::<u16>(value)?,
        Datatype::Uint32 => elements::<u32>(value)?,
        Datatype::Uint64 => elements::<u64>(value)?,
        Datatype::Int8 => elements::<i8>(value)?,
        Datatype::Int16 => elements::<i16>(value)?,
        Datatype::Int32 => elements::<i32>(value)?,
        Datatype::Int64 => elements::<i64>(value)?,
        Datatype::Fp16 => elements::<f16>(value)?,
        Datatype::Fp32 => elements::<f32>(value)?,
        Datatype::Fp64 => elements::<f64>(value)?,
        Datatype::Bf16 => elements::<bf16>(value)?,
        Datatype::Bytes => {
            let (shape, strings) = batchfleet_ort_strings::read(value)?;
            (shape, tensors::encode_strings(strings.iter()))
        }
    };
    let shape = shape.iter().map(|&dim| dim.unsigned_abs()).collect();
    Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data })
}

fn elements<T>(value: &DynValue) -> ort::Result<(&ort::value::Shape, Bytes)>
where
    T: PrimitiveTensorElementType + Pod,
{
    let (shape, elements) = value.try_extract_tensor::<T>()?;
    Ok((shape, Bytes::copy_from_slice(bytemuck::cast_slice(elements))))
}
