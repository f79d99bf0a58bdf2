//! gRPC: the messages of an inference.

use batchfleet_proto::{
    Message,
    inference::{
        ModelInferRequest, ModelInferResponse,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
};
use bytes::{BufMut, Bytes};
use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, TE},
};

use crate::{
    HttpAnswer,
    tensors::{Data, Input, Output},
};

/// The path of an inference.
pub(crate) const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const CONTENT: HeaderValue = HeaderValue::from_static("application/grpc");
/// The flag and the length before a message.
const FRAME_HEAD: usize = 5;

/// The headers of a call.
pub(crate) fn headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, CONTENT), (TE, HeaderValue::from_static("trailers"))])
}

/// The frame of a request, with the bytes of each input.
pub(crate) fn request(model: &str, inputs: &[Input], wanted: &[String], data: &[&[u8]]) -> Bytes {
    let inputs = inputs.iter().map(|Input { name, datatype, shape }| InferInputTensor {
        name: name.clone(),
        datatype: datatype.clone(),
        shape: shape.iter().map(|size| size.cast_signed()).collect(),
        ..Default::default()
    });
    let wanted = wanted
        .iter()
        .map(|name| InferRequestedOutputTensor { name: name.clone(), ..Default::default() });
    let message = ModelInferRequest {
        model_name: model.to_owned(),
        inputs: inputs.collect(),
        outputs: wanted.collect(),
        raw_input_contents: data.iter().map(|data| Bytes::copy_from_slice(data)).collect(),
        ..Default::default()
    };
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(FRAME_HEAD + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.extend(message.encode_to_vec());
    frame.into()
}

/// Whether an answer is one of gRPC.
pub(crate) fn is_answer(answer: &HttpAnswer) -> bool {
    answer.headers.get(CONTENT_TYPE) == Some(&CONTENT)
}

/// Parses the outputs of an answer.
///
/// # Errors
///
/// A description of the malformed part.
pub(crate) fn outputs(answer: &HttpAnswer) -> Result<Vec<Output>, String> {
    let malformed = || format!("an answer of {} bytes is no message", answer.body.len());
    let (head, message) = answer.body.split_at_checked(FRAME_HEAD).ok_or_else(malformed)?;
    if head != [&[0][..], &u32::try_from(message.len()).unwrap_or(0).to_be_bytes()].concat() {
        return Err(malformed());
    }
    let message = ModelInferResponse::decode(answer.body.slice(FRAME_HEAD..))
        .map_err(|error| format!("answer: {error}"))?;
    if message.outputs.len() != message.raw_output_contents.len() {
        return Err("an output has no raw contents".to_owned());
    }
    let outputs = message.outputs.into_iter().zip(message.raw_output_contents);
    let read = outputs.map(|(output, data)| {
        let shape = output.shape.iter().map(|size| size.cast_unsigned()).collect();
        Output::new(output.name, output.datatype, shape, Data::Binary(data))
    });
    Ok(read.collect())
}

/// Converts an answer: its status becomes the HTTP status of the same meaning, and the text of an error its
/// body.
pub(crate) fn as_http(
    HttpAnswer { mut headers, mut body }: HttpAnswer,
) -> (StatusCode, HttpAnswer) {
    let status = headers.get(STATUS).and_then(|status| status.to_str().ok()?.parse().ok());
    let status = status.map_or(StatusCode::BAD_GATEWAY, http_status);
    let wait = headers.get(PUSHBACK).and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok());
    if let Some(milliseconds) = wait {
        headers.insert(RETRY_AFTER, HeaderValue::from(milliseconds.div_ceil(1000)));
    }
    if let Some(message) = headers.get(MESSAGE).filter(|_| status != StatusCode::OK) {
        body = Bytes::copy_from_slice(message.as_bytes());
    }
    (status, HttpAnswer { headers, body })
}

fn http_status(status: i32) -> StatusCode {
    match status {
        0 => StatusCode::OK,
        3 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_proto::inference::model_infer_response::InferOutputTensor;

    use super::*;

    #[test]
    fn a_request_is_a_frame_with_raw_inputs() {
        let input = Input { name: "x".into(), datatype: "FP32".into(), shape: vec![1, 2] };
        let frame = request("m", &[input], &["y".into()], &[&[1, 2, 3, 4, 5, 6, 7, 8]]);
        assert_eq!(
            frame[..5],
            [&[0][..], &u32::try_from(frame.len() - 5).unwrap().to_be_bytes()].concat()
        );
        let message = ModelInferRequest::decode(&frame[5..]).unwrap();
        assert_eq!((message.model_name.as_str(), &message.inputs[0].shape[..]), ("m", &[1, 2][..]));
        assert_eq!(message.raw_input_contents[0], [1, 2, 3, 4, 5, 6, 7, 8][..]);
        assert_eq!(message.outputs[0].name, "y");
    }

    #[test]
    fn an_answer_is_read_and_a_malformed_one_is_an_error() {
        let output = InferOutputTensor {
            name: "y".into(),
            datatype: "UINT8".into(),
            shape: vec![1, 2],
            ..Default::default()
        };
        let message = ModelInferResponse {
            outputs: vec![output],
            raw_output_contents: vec![Bytes::from_static(&[7, 8])],
            ..Default::default()
        };
        let framed = |message: &[u8]| {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            HttpAnswer { headers: headers(), body: [&[0][..], &length, message].concat().into() }
        };
        let answer = framed(&message.encode_to_vec());
        assert!(is_answer(&answer));
        assert_eq!(outputs(&answer).unwrap()[0].u8s().unwrap(), [7, 8][..]);
        let without = ModelInferResponse { raw_output_contents: vec![], ..message };
        assert!(outputs(&framed(&without.encode_to_vec())).is_err());
        let cut = HttpAnswer { body: answer.body.slice(..answer.body.len() - 1), ..answer };
        assert!(outputs(&cut).is_err());
    }
}
