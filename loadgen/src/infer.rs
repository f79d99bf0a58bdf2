//! A client of the Open Inference Protocol: makes requests and parses answers.

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Uri,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

pub use crate::tensors::{Input, Output};
use crate::{HttpAnswer, LoadError, Prepared, grpc, tensors::Data};

const HEAD_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The encoding of tensors, in requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Raw little-endian bytes after a JSON head (binary tensor extension).
    Binary,
    /// JSON numbers.
    Json,
    /// Messages of gRPC, for targets that speak it.
    Grpc,
}

/// Makes requests for one model.
#[derive(Clone, Debug)]
pub struct Call {
    model: String,
    uri: Uri,
    inputs: Vec<Input>,
    wanted: Vec<String>,
}

impl Call {
    /// Requests for the default version of `model`.
    pub fn new(model: &str, inputs: Vec<Input>) -> Result<Self, LoadError> {
        let uri = uri(&format!("/v2/models/{model}/infer"))?;
        Ok(Self { model: model.to_owned(), uri, inputs, wanted: Vec::new() })
    }

    /// Requests only some of the outputs.
    #[must_use]
    pub fn wanting(self, outputs: &[&str]) -> Self {
        Self { wanted: outputs.iter().map(|&name| name.to_owned()).collect(), ..self }
    }

    /// A request with binary inputs, given as the bytes of each, that asks for binary outputs.
    pub fn binary(&self, data: &[&[u8]]) -> Prepared {
        let sizes =
            data.iter().map(|data| ("parameters", json!({ "binary_data_size": data.len() })));
        let mut head = self.head(sizes);
        head["parameters"] = json!({ "binary_data_output": true });
        let mut body = head.to_string().into_bytes();
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
            (HEAD_LENGTH, HeaderValue::from(body.len())),
        ]);
        body.extend(data.iter().copied().flatten());
        self.prepared(headers, body)
    }

    /// A request with JSON inputs, given as the data of each, that asks for JSON outputs.
    pub fn json(&self, data: impl IntoIterator<Item = Value>) -> Prepared {
        let body = self.head(data.into_iter().map(|data| ("data", data))).to_string();
        let json = HeaderValue::from_static("application/json");
        self.prepared(HeaderMap::from_iter([(CONTENT_TYPE, json)]), body.into_bytes())
    }

    /// A request over gRPC, with the bytes of each input.
    pub fn grpc(&self, data: &[&[u8]]) -> Prepared {
        let body = grpc::request(&self.model, &self.inputs, &self.wanted, data);
        let (headers, uri) = (grpc::headers(), Uri::from_static(grpc::PATH));
        Prepared { method: Method::POST, uri, headers, body, hang_up: None }
    }

    fn prepared(&self, headers: HeaderMap, body: Vec<u8>) -> Prepared {
        let uri = self.uri.clone();
        Prepared { method: Method::POST, uri, headers, body: body.into(), hang_up: None }
    }

    /// The JSON part of a request, with one additional field per input.
    fn head(&self, more: impl Iterator<Item = (&'static str, Value)>) -> Value {
        let inputs = self.inputs.iter().zip(more).map(|(input, (field, value))| {
            let Input { name, datatype, shape } = input;
            let mut input = json!({ "name": name, "datatype": datatype, "shape": shape });
            input[field] = value;
            input
        });
        let mut head = json!({ "inputs": inputs.collect::<Vec<_>>() });
        if !self.wanted.is_empty() {
            head["outputs"] = self.wanted.iter().map(|name| json!({ "name": name })).collect();
        }
        head
    }
}

/// Parses a path on a server.
pub(crate) fn uri(path: &str) -> Result<Uri, LoadError> {
    path.parse().map_err(|_| LoadError::Plan(format!("{path:?} is not a path")))
}

/// Parses the outputs of an answer, in any encoding.
///
/// # Errors
///
/// A description of the malformed part.
pub fn outputs(answer: &HttpAnswer) -> Result<Vec<Output>, String> {
    if grpc::is_answer(answer) {
        return grpc::outputs(answer);
    }
    let head_length = match answer.headers.get(HEAD_LENGTH) {
        None => answer.body.len(),
        Some(length) => length
            .to_str()
            .ok()
            .and_then(|length| length.parse().ok())
            .filter(|length| *length <= answer.body.len())
            .ok_or_else(|| format!("{HEAD_LENGTH}: {length:?}"))?,
    };
    let mut binary = answer.body.clone();
    let head = binary.split_to(head_length);
    let head: Response = serde_json::from_slice(&head).map_err(|e| format!("answer: {e}"))?;
    let outputs = head.outputs.into_iter().map(|output| output.read(&mut binary)).collect();
    if !binary.is_empty() {
        return Err(format!("{} bytes after the last output", binary.len()));
    }
    outputs
}

#[derive(Deserialize)]
struct Response {
    outputs: Vec<ResponseOutput>,
}

#[derive(Deserialize)]
struct ResponseOutput {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    data: Option<Box<RawValue>>,
    #[serde(default)]
    parameters: ResponseParameters,
}

#[derive(Default, Deserialize)]
struct ResponseParameters {
    binary_data_size: Option<usize>,
}

impl ResponseOutput {
    /// Completes an output; takes binary data from the front of the remaining body.
    fn read(self, binary: &mut Bytes) -> Result<Output, String> {
        let data = match (self.data, self.parameters.binary_data_size) {
            (Some(text), None) => Data::Json(text),
            (None, Some(size)) if size <= binary.len() => Data::Binary(binary.split_to(size)),
            _ => return Err(format!("output {:?} has no data", self.name)),
        };
        Ok(Output::new(self.name, self.datatype, self.shape, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        let input = Input { name: "x".into(), datatype: "FP32".into(), shape: vec![1, 2] };
        Call::new("digits_wide", vec![input]).unwrap()
    }

    fn answer(head: &str, tail: &[u8]) -> HttpAnswer {
        let length = HeaderValue::from(head.len());
        let headers = HeaderMap::from_iter([(HEAD_LENGTH, length)]);
        HttpAnswer { headers, body: [head.as_bytes(), tail].concat().into() }
    }

    #[test]
    fn a_binary_request_is_a_json_head_followed_by_the_bytes() {
        let request = call().binary(&[&[1, 2, 3, 4, 5, 6, 7, 8]]);
        assert_eq!(request.uri, "/v2/models/digits_wide/infer");
        let head = r#"{"inputs":[{"datatype":"FP32","name":"x","parameters":{"binary_data_size":8},"shape":[1,2]}],"parameters":{"binary_data_output":true}}"#;
        assert_eq!(request.headers[HEAD_LENGTH], head.len().to_string());
        assert_eq!(request.body, [head.as_bytes(), &[1, 2, 3, 4, 5, 6, 7, 8]].concat());
    }

    #[test]
    fn a_json_request_contains_its_numbers() {
        let request = call().json([json!([0.5, 16.0])]);
        let body = r#"{"inputs":[{"data":[0.5,16.0],"datatype":"FP32","name":"x","shape":[1,2]}]}"#;
        assert_eq!(request.body, body);
        assert!(!request.headers.contains_key(HEAD_LENGTH));
    }

    #[test]
    fn the_bytes_of_several_inputs_follow_each_other_and_outputs_are_restricted() {
        let input =
            |name: &str| Input { name: name.into(), datatype: "UINT8".into(), shape: vec![1] };
        let call = Call::new("m", vec![input("a"), input("b")]).unwrap().wanting(&["y"]);
        let request = call.binary(&[&[7], &[8]]);
        assert!(request.body.ends_with(&[7, 8]));
        let head = String::from_utf8_lossy(&request.body[..request.body.len() - 2]);
        assert!(head.contains(r#""outputs":[{"name":"y"}]"#), "{head}");
    }

    #[test]
    fn binary_and_json_outputs_are_parsed_in_order() {
        let head = r#"{"model_name":"m","outputs":[
            {"name":"a","datatype":"FP32","shape":[1,1],"parameters":{"binary_data_size":4}},
            {"name":"b","datatype":"FP32","shape":[1,2],"data":[1,2.5]},
            {"name":"c","datatype":"UINT8","shape":[1,2],"parameters":{"binary_data_size":2}}]}"#;
        let tail = [1.5_f32.to_le_bytes().as_slice(), &[7, 8]].concat();
        let outputs = outputs(&answer(head, &tail)).unwrap();
        assert_eq!(outputs[0].f32s().unwrap(), [1.5]);
        assert_eq!(outputs[1].f32s().unwrap(), [1.0, 2.5]);
        assert_eq!(outputs[2].u8s().unwrap(), [7, 8].as_slice());
        assert!(outputs[2].f32s().is_err());
    }

    #[test]
    fn malformed_answers_are_errors() {
        let binary = r#"{"outputs":[{"name":"a","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}"#;
        assert!(outputs(&answer(binary, &[0; 4])).is_ok());
        assert!(outputs(&answer(binary, &[0; 3])).is_err(), "too short");
        assert!(outputs(&answer(binary, &[0; 5])).is_err(), "too long");
        assert!(outputs(&answer("{}", &[])).is_err(), "no outputs");
        let mut lying = answer(binary, &[0; 4]);
        lying.headers.insert(HEAD_LENGTH, HeaderValue::from_static("100000"));
        assert!(outputs(&lying).is_err(), "head longer than the body");
    }
}
