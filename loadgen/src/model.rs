//! The metadata of a model, and random inputs that fit it.

use std::time::Duration;

use bytes::Bytes;
use half::{bf16, f16};
use hyper::{HeaderMap, Method, StatusCode};
use rand::{Rng, RngExt};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    LoadError, Prepared, Target,
    infer::{Input, uri},
};

/// Random elements are multiples of 1/128 of the range. Every float type represents these fractions
/// exactly.
const STEPS: u8 = 128;

/// The ranges of floats, from 0. The inputs of one batch differ in size, because otherwise a model
/// that scales all requests of a batch together would look right. Powers of two keep fractions exact.
const RANGES: [f32; 4] = [1.0, 1024.0, 1.0, 1.0 / 1024.0];

/// Pause between two questions whether a model is ready.
const PAUSE: Duration = Duration::from_millis(250);

/// The answer to `GET /v2/models/{model}`.
#[derive(Clone, Debug, Deserialize)]
pub struct Metadata {
    /// The model's name.
    pub name: String,
    /// The platform that runs the model.
    #[serde(default)]
    pub platform: String,
    /// The inputs.
    pub inputs: Vec<TensorMetadata>,
}

/// An input of a model.
#[derive(Clone, Debug, Deserialize)]
pub struct TensorMetadata {
    /// The name.
    pub name: String,
    /// The element type, such as `FP32`.
    pub datatype: String,
    /// The dimensions; -1 is any size.
    pub shape: Vec<i64>,
}

/// Sizes and range of random inputs that the metadata leaves open.
#[derive(Clone, Copy, Debug)]
pub struct SampleShape {
    /// The first dimension: rows.
    pub rows: u64,
    /// All other open dimensions.
    pub free: u64,
    /// Upper bound of integers, at most 127. A model that uses integers as indices may need less.
    pub most: u8,
}

/// A random input in both encodings.
pub(crate) struct Sample {
    pub(crate) input: Input,
    pub(crate) bytes: Vec<u8>,
    pub(crate) json: Value,
}

impl Metadata {
    /// Requests the metadata of a model.
    pub async fn of(target: &Target, model: &str, patience: Duration) -> Result<Self, LoadError> {
        ask_about(target, model, "", patience).await
    }
}

/// Waits until a model is ready, for at most `wait`. Each question may take `patience`.
///
/// # Errors
///
/// The answer to the last question, or why there was none.
pub async fn until_ready(
    target: &Target,
    model: &str,
    wait: Duration,
    patience: Duration,
) -> Result<(), LoadError> {
    let until = Instant::now() + wait;
    loop {
        let answer = answer_about(target, model, "/ready", patience).await;
        if answer.is_ok() || Instant::now() >= until {
            return answer.map(drop);
        }
        sleep(PAUSE).await;
    }
}

/// Requests `GET /v2/models/{model}{aspect}` and parses the JSON answer.
pub async fn ask_about<T: DeserializeOwned>(
    target: &Target,
    model: &str,
    aspect: &str,
    patience: Duration,
) -> Result<T, LoadError> {
    let body = answer_about(target, model, aspect, patience).await?;
    serde_json::from_str(&body).map_err(|error| LoadError::Unanswered {
        target: target.to_string(),
        problem: format!("sent an invalid description of {model:?}: {error}"),
    })
}

/// Requests `GET /v2/models/{model}{aspect}`; returns the body of the answer.
async fn answer_about(
    target: &Target,
    model: &str,
    aspect: &str,
    patience: Duration,
) -> Result<String, LoadError> {
    let request = Prepared {
        method: Method::GET,
        uri: uri(&format!("/v2/models/{model}{aspect}"))?,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        hang_up: None,
    };
    let (status, answer) = target.ask(request, patience).await?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    let target = target.to_string();
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::NOT_FOUND => Err(LoadError::NoModel { target, model: model.to_owned(), body }),
        _ => Err(LoadError::Unanswered {
            target,
            problem: format!("answered {status} to a request for {model:?}: {body}"),
        }),
    }
}

impl TensorMetadata {
    /// Draws random data for this input of request number `index`. The elements of an input come from
    /// a random part of the range: with the whole range all inputs would have nearly the same mean,
    /// and often the same answer.
    pub(crate) fn draw(
        &self,
        sizes: SampleShape,
        index: usize,
        random: &mut impl Rng,
    ) -> Result<Sample, LoadError> {
        let range = RANGES[index % RANGES.len()];
        let open = |position| if position == 0 { sizes.rows } else { sizes.free };
        let dimensions = self.shape.iter().enumerate();
        let shape: Vec<u64> =
            dimensions.map(|(at, &size)| u64::try_from(size).unwrap_or(open(at))).collect();
        let (one, other) = (random.random_range(0..=STEPS), random.random_range(0..=STEPS));
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for _ in 0..shape.iter().product() {
            let step = random.random_range(one.min(other)..=one.max(other));
            let (data, value) =
                element(&self.datatype, step, range, sizes.most).ok_or_else(|| {
                    let Self { name, datatype, .. } = self;
                    LoadError::Plan(format!("input {name:?} has the unknown datatype {datatype:?}"))
                })?;
            bytes.extend(data);
            values.push(value);
        }
        let input = Input { name: self.name.clone(), datatype: self.datatype.clone(), shape };
        Ok(Sample { input, bytes, json: values.into() })
    }
}

/// The element at `step` of [`STEPS`] in the range, as bytes and as JSON; `None` for unknown types.
fn element(datatype: &str, step: u8, range: f32, most: u8) -> Option<(Vec<u8>, Value)> {
    let fraction = f32::from(step) / f32::from(STEPS) * range;
    let number = u64::from(step) * u64::from(most) / u64::from(STEPS);
    let whole = |bytes| (number.to_le_bytes()[..bytes].to_vec(), json!(number));
    Some(match datatype {
        "BF16" => (bf16::from_f32(fraction).to_le_bytes().into(), json!(fraction)),
        "FP16" => (f16::from_f32(fraction).to_le_bytes().into(), json!(fraction)),
        "FP32" => (fraction.to_le_bytes().into(), json!(fraction)),
        "FP64" => (f64::from(fraction).to_le_bytes().into(), json!(fraction)),
        "BOOL" => (vec![step % 2], json!(step % 2 == 1)),
        "INT8" | "UINT8" => whole(1),
        "INT16" | "UINT16" => whole(2),
        "INT32" | "UINT32" => whole(4),
        "INT64" | "UINT64" => whole(8),
        "BYTES" => {
            let text = format!("text {step:03}");
            let length = u32::try_from(text.len()).ok()?.to_le_bytes();
            ([&length, text.as_bytes()].concat(), json!(text))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn every_datatype_of_the_protocol_has_random_data() {
        let mut random = StdRng::seed_from_u64(0);
        let sizes = SampleShape { rows: 2, free: 3, most: 100 };
        for (datatype, size) in [
            ("BOOL", 1),
            ("UINT8", 1),
            ("INT8", 1),
            ("UINT16", 2),
            ("INT32", 4),
            ("UINT64", 8),
            ("FP16", 2),
            ("BF16", 2),
            ("FP32", 4),
            ("FP64", 8),
            ("BYTES", 4 + 8),
        ] {
            let input = TensorMetadata {
                name: "x".to_owned(),
                datatype: datatype.to_owned(),
                shape: vec![-1, 5, -1],
            };
            let sample = input.draw(sizes, 0, &mut random).unwrap();
            assert_eq!(sample.input.shape, [2, 5, 3]);
            assert_eq!(sample.bytes.len(), 30 * size, "{datatype}");
            assert_eq!(sample.json.as_array().map(Vec::len), Some(30), "{datatype}");
        }
        let odd = TensorMetadata { name: "x".into(), datatype: "FP8".into(), shape: vec![1] };
        assert!(odd.draw(sizes, 0, &mut random).is_err());
    }

    #[test]
    fn both_encodings_hold_the_same_values_and_inputs_differ_in_size() {
        let mut random = StdRng::seed_from_u64(0);
        let sizes = SampleShape { rows: 1, free: 1, most: 1 };
        let input = TensorMetadata { name: "x".into(), datatype: "FP32".into(), shape: vec![9] };
        let mut largest = |index| {
            let sample = input.draw(sizes, index, &mut random).unwrap();
            let elements = sample.bytes.as_chunks().0.iter();
            let floats: Vec<f32> = elements.map(|bytes| f32::from_le_bytes(*bytes)).collect();
            assert_eq!(sample.json, json!(floats));
            floats.into_iter().fold(0.0, f32::max)
        };
        assert!(largest(0) <= 1.0 && largest(1) > 1.0 && largest(3) <= 1.0 / 1024.0);
    }
}
