//! The inputs of requests and the outputs of answers, in any encoding.

use bytes::Bytes;
use half::{bf16, f16};
use serde::Deserialize;
use serde_json::value::RawValue;

/// An input of a request.
#[derive(Clone, Debug)]
pub struct Input {
    /// The name.
    pub name: String,
    /// The element type, such as `FP32`.
    pub datatype: String,
    /// The dimensions, rows first.
    pub shape: Vec<u64>,
}

/// An output of an answer.
#[derive(Clone, Debug)]
pub struct Output {
    /// The name.
    pub name: String,
    /// The element type, such as `FP32`.
    pub datatype: String,
    /// The dimensions, rows first.
    pub shape: Vec<u64>,
    data: Data,
}

/// The elements of an output.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    Binary(Bytes),
    Json(Box<RawValue>),
}

impl Output {
    /// An output with these elements.
    pub(crate) fn new(name: String, datatype: String, shape: Vec<u64>, data: Data) -> Self {
        Self { name, datatype, shape, data }
    }

    /// The elements as FP32 numbers.
    ///
    /// # Errors
    ///
    /// If the output has another type.
    pub fn f32s(&self) -> Result<Vec<f32>, String> {
        match &self.data {
            Data::Json(text) => parse(text),
            Data::Binary(_) if self.datatype != "FP32" => Err(format!("{} output", self.datatype)),
            Data::Binary(bytes) => {
                let (elements, rest) = bytes.as_chunks();
                if !rest.is_empty() {
                    return Err(format!("{} bytes are not an FP32 tensor", bytes.len()));
                }
                Ok(elements.iter().map(|element| f32::from_le_bytes(*element)).collect())
            }
        }
    }

    /// Whether two outputs are equal within a tolerance: equal name, type and shape, and floats that
    /// differ by at most `tolerance` times the largest number of this output; ten times as much for
    /// 16 bits. Other elements must be equal.
    pub fn is_alike(&self, other: &Self, tolerance: f64) -> bool {
        let kind =
            |output: &Self| (output.name.clone(), output.datatype.clone(), output.shape.clone());
        if kind(self) != kind(other) {
            return false;
        }
        let (Some(ours), Some(theirs)) = (self.floats(), other.floats()) else {
            return self.raw() == other.raw();
        };
        let is_half = matches!(self.datatype.as_str(), "FP16" | "BF16");
        let tolerance = if is_half { tolerance * 10.0 } else { tolerance };
        let margin = tolerance * ours.iter().fold(0.0, |most, number| number.abs().max(most));
        let near = |(a, b): (&f64, &f64)| {
            let is_alike = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            is_alike || (a - b).abs() <= margin
        };
        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(near)
    }

    fn raw(&self) -> &[u8] {
        match &self.data {
            Data::Json(text) => text.get().as_bytes(),
            Data::Binary(bytes) => bytes,
        }
    }

    /// The elements, if they are floats.
    fn floats(&self) -> Option<Vec<f64>> {
        let bytes = match &self.data {
            Data::Json(text) if self.datatype.starts_with("FP") || self.datatype == "BF16" => {
                return serde_json::from_str(text.get()).ok();
            }
            Data::Json(_) => return None,
            Data::Binary(bytes) => bytes,
        };
        Some(match self.datatype.as_str() {
            "FP16" => each(bytes, |element| f16::from_le_bytes(element).to_f64()),
            "BF16" => each(bytes, |element| bf16::from_le_bytes(element).to_f64()),
            "FP32" => each(bytes, |element| f32::from_le_bytes(element).into()),
            "FP64" => each(bytes, f64::from_le_bytes),
            _ => return None,
        })
    }

    /// The elements as bytes: the binary data, or JSON numbers from 0 to 255.
    ///
    /// # Errors
    ///
    /// If a JSON element is not an integer from 0 to 255.
    pub fn u8s(&self) -> Result<Bytes, String> {
        match &self.data {
            Data::Json(text) => parse::<Vec<u8>>(text).map(Bytes::from),
            Data::Binary(bytes) => Ok(bytes.clone()),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|element| number(*element)).collect()
}

fn parse<'a, T: Deserialize<'a>>(text: &'a RawValue) -> Result<T, String> {
    serde_json::from_str(text.get()).map_err(|error| format!("output data: {error}"))
}
