//! Common parts of the fuzz targets: a model with any datatypes, and the checks of a request to the
//! model.

use batchfleet_broker::{Datatype, ModelSpec, QueueName, TensorSpec};
use batchfleet_oip::{
    grpc,
    infer::{HeaderLength, InferRequest, parse},
    response::encode,
};
use batchfleet_proto::{
    Message,
    inference::{ModelInferRequest, ModelStreamInferResponse},
};
use bytes::Bytes;

/// A model with one input and one output of each datatype. Raw requests need exactly one datatype.
pub fn model(datatypes: &[Datatype]) -> ModelSpec {
    let tensors = |prefix: &str| {
        datatypes
            .iter()
            .map(|&datatype| TensorSpec::new(format!("{prefix}{datatype}"), datatype, [-1, -1]))
            .collect()
    };
    ModelSpec {
        queue: QueueName::new("m", 1),
        platform: "fuzz".to_owned(),
        backend: "fuzz".to_owned(),
        max_batch: std::num::NonZeroU32::new(64),
        inputs: tensors("I"),
        outputs: tensors("I"),
    }
}

/// Parses a request. If the parser accepts the request, tensors must be consistent with the shapes,
/// and an answer that returns the inputs must parse to the same inputs.
pub fn check(body: Bytes, header: HeaderLength, model: &ModelSpec) {
    let Ok(request) = parse(&body, header, model) else { return };
    check_shapes(&request);
    let InferRequest { id, inputs, mut outputs, .. } = request;
    for output in &mut outputs {
        output.binary = true;
    }
    if outputs.len() < model.outputs.len() {
        return;
    }
    let echo = encode(model, id.as_deref(), &outputs, &inputs).expect("an echo can be written");
    // Rename the answer's outputs to inputs, which makes the answer a request.
    let body = echo.body.concat();
    let text = String::from_utf8_lossy(&body[..echo.json_length.unwrap_or(body.len())]);
    let inputs_here = "\"parameters\":{\"binary_data_output\":true},\"inputs\":";
    let head = text.replacen("\"outputs\":", inputs_here, 1);
    let mut again = head.clone().into_bytes();
    again.extend_from_slice(&body[text.len()..]);
    let header = HeaderLength::Json(head.len());
    let back = parse(&again.into(), header, model).expect("an echo reads back");
    assert_eq!(back.inputs, inputs);
}

/// Parses a message of gRPC. If the parser accepts the message, tensors must be consistent with the
/// shapes, the generated code must read the same request, and an answer that returns the inputs must
/// have them as its outputs.
pub fn check_message(message: &Bytes, model: &ModelSpec) {
    let target = grpc::request::Target::read(message);
    let Ok(request) = grpc::request::parse(message, model) else { return };
    check_shapes(&request);
    if let (Ok(target), Ok(decoded)) = (target, ModelInferRequest::decode(message.clone())) {
        assert_eq!((&target.name, &target.id), (&decoded.model_name, &decoded.id));
        assert_eq!(request.inputs.len(), decoded.inputs.len());
    }
    let InferRequest { id, inputs, outputs, .. } = request;
    let id = id.as_deref();
    let pieces = grpc::response::encode_streamed(model, id, &outputs, &inputs);
    let answer = pieces.expect("an echo can be written").concat();
    let answer = ModelStreamInferResponse::decode(&answer[..]).expect("an echo is a message");
    let answer = answer.infer_response.expect("an echo is no error");
    let contents = |name: &str| inputs.iter().find(|input| input.name == name).map(|i| &i.data);
    for (output, data) in answer.outputs.iter().zip(&answer.raw_output_contents) {
        assert_eq!(contents(&output.name), Some(data));
    }
    assert_eq!(answer.outputs.len(), outputs.len());
}

fn check_shapes(request: &InferRequest) {
    for tensor in &request.inputs {
        let elements: u64 = tensor.shape.iter().product();
        if let Some(size) = tensor.datatype.size() {
            assert_eq!(tensor.data.len() as u64, elements * size as u64);
        }
        assert_eq!(u64::from(request.rows), tensor.shape[0]);
    }
}
