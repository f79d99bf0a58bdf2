//! Tensors of strings with any bytes, for ONNX Runtime.
//!
//! The string functions of the `ort` crate take C strings, which end at the first NUL, and return
//! Rust strings, which must be UTF-8. ONNX Runtime itself stores the length of each string and
//! accepts any bytes: images, pickled objects, text in any encoding. This crate reads and writes
//! such strings with explicit lengths.
//!
//! This crate contains the only `unsafe` code of the workspace: the calls of four functions of ONNX
//! Runtime's C interface for which `ort` has no safe wrapper. Each call passes pointers and lengths
//! of the same live allocation, which the comments at the calls show. Miri cannot check the code,
//! because Miri does not run foreign functions.

use ort::{
    AsPointer,
    memory::Allocator,
    value::{DynTensor, DynValue, Shape, TensorElementType},
};

/// The elements of a tensor of strings, in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strings {
    /// All strings, one after the other.
    bytes: Vec<u8>,
    /// The position in `bytes` at which each string begins, and the length of `bytes` at the end.
    starts: Vec<usize>,
}

impl Strings {
    /// Iterates over the strings.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        self.starts.windows(2).map(|ends| self.bytes.get(ends[0]..ends[1]).unwrap_or_default())
    }

    /// The number of bytes of all strings together.
    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Creates a tensor of `shape` that holds copies of `strings`, in row-major order.
///
/// # Errors
///
/// If the number of strings is not the number of elements of `shape`, or if ONNX Runtime reports an
/// error.
pub fn tensor<S: AsRef<[u8]>>(shape: Vec<i64>, strings: &[S]) -> ort::Result<DynTensor> {
    let elements = elements(&shape);
    if elements != Some(strings.len()) {
        let count = strings.len();
        return Err(ort::Error::new(format!("{count} strings do not fill shape {shape:?}")));
    }
    // ONNX Runtime creates every element as an empty string.
    let mut tensor = DynTensor::new(&Allocator::default(), TensorElementType::String, shape)?;
    for (index, string) in strings.iter().enumerate() {
        fill(&mut tensor, index, string.as_ref())?;
    }
    Ok(tensor)
}

/// The shape and the elements of `value`.
///
/// # Errors
///
/// If `value` is not a tensor of strings, or if ONNX Runtime reports an error.
pub fn read(value: &DynValue) -> ort::Result<(&Shape, Strings)> {
    let dtype = value.dtype();
    let (Some(TensorElementType::String), Some(shape)) =
        (dtype.tensor_type(), dtype.tensor_shape())
    else {
        return Err(ort::Error::new(format!("{dtype} is not a tensor of strings")));
    };
    let unknown = || ort::Error::new(format!("shape {shape} has no size"));
    let elements = elements(shape).ok_or_else(unknown)?;
    Ok((shape, content(value, elements)?))
}

/// The number of elements of a tensor of `shape`; `None` if the shape is open or too large.
fn elements(shape: &[i64]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(usize::try_from(dim).ok()?))
}

/// Writes `string` into the element at `index`.
fn fill(tensor: &mut DynTensor, index: usize, string: &[u8]) -> ort::Result<()> {
    let mut buffer = std::ptr::null_mut();
    let resize = ort::api().GetResizedStringTensorElementBuffer;
    // SAFETY: `tensor` is a live tensor of strings, borrowed exclusively. ONNX Runtime checks the
    // index, resizes the element to `string.len()` bytes, and stores the address of its first byte in
    // `buffer`, a local variable.
    let status = unsafe { resize(tensor.ptr_mut(), index, string.len(), &raw mut buffer) };
    // SAFETY: `status` is the result of the call above and is converted once.
    unsafe { ort::Error::result_from_status(status) }?;
    if buffer.is_null() {
        return Err(ort::Error::new("ONNX Runtime returned no memory for a string"));
    }
    // SAFETY: `buffer` is the address of `string.len()` bytes that belong to the tensor, stay valid
    // until its next change and overlap no Rust reference. Every byte is written, none is read.
    unsafe { std::ptr::copy_nonoverlapping(string.as_ptr(), buffer.cast(), string.len()) };
    Ok(())
}

/// Copies the `elements` strings of `value`, a tensor of strings.
fn content(value: &DynValue, elements: usize) -> ort::Result<Strings> {
    let (mut length, measure) = (0, ort::api().GetStringTensorDataLength);
    // SAFETY: `value` is a live tensor of strings, which the caller has checked. ONNX Runtime stores
    // the sum of the lengths in `length`, a local variable.
    let status = unsafe { measure(value.ptr(), &raw mut length) };
    // SAFETY: `status` is the result of the call above and is converted once.
    unsafe { ort::Error::result_from_status(status) }?;
    let mut bytes = vec![0_u8; length];
    let mut starts = vec![0_usize; elements];
    let copy = ort::api().GetStringTensorContent;
    // SAFETY: both pointers are those of live vectors, passed with the lengths of these vectors,
    // which ONNX Runtime compares with the content before it writes. The borrow of `value` keeps
    // its content unchanged between the two calls.
    let status = unsafe {
        copy(value.ptr(), bytes.as_mut_ptr().cast(), length, starts.as_mut_ptr(), elements)
    };
    // SAFETY: `status` is the result of the call above and is converted once.
    unsafe { ort::Error::result_from_status(status) }?;
    starts.push(length);
    Ok(Strings { bytes, starts })
}
