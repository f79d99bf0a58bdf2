//! Models and requests for tests.

use batchfleet_broker::{Datatype, ModelSpec, QueueName, TensorSpec};
use bytes::Bytes;

use crate::{
    infer::{HeaderLength, InferRequest, parse},
    problem::Problem,
};

/// An input or output of a model.
pub(crate) fn tensor(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec::new(name, datatype, shape)
}

/// A model that takes batches of up to 4 rows.
pub(crate) fn model(inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> ModelSpec {
    ModelSpec {
        queue: QueueName::new("sample", 7),
        platform: "onnxruntime_onnx".into(),
        backend: "onnxruntime".into(),
        max_batch: std::num::NonZeroU32::new(4),
        inputs,
        outputs,
    }
}

/// A model with an input `x` of this datatype and an output `y`, each with one open dimension after
/// the batch dimension.
pub(crate) fn simple(datatype: Datatype) -> ModelSpec {
    model(vec![tensor("x", datatype, &[-1, -1])], vec![tensor("y", Datatype::Fp32, &[-1, -1])])
}

/// A request with one input `x`.
pub(crate) fn request(datatype: Datatype, shape: &str, data: &str) -> String {
    format!(
        r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}"#
    )
}

/// A request whose one input `x` is sent as binary data, and the length of its JSON.
pub(crate) fn binary(datatype: Datatype, shape: &str, data: &[u8]) -> (Bytes, HeaderLength) {
    let json = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"parameters":{{"binary_data_size":{}}}}}]}}"#,
        data.len()
    );
    let header = HeaderLength::Json(json.len());
    ([json.as_bytes(), data].concat().into(), header)
}

/// Parses a body that is all JSON.
pub(crate) fn parsed(model: &ModelSpec, body: impl AsRef<[u8]>) -> Result<InferRequest, Problem> {
    let body = Bytes::copy_from_slice(body.as_ref());
    parse(&body, HeaderLength::Absent, model)
}

/// `ok`, or the code of the problem. Asserts that a problem has status 400 and a short message.
pub(crate) fn verdict<T>(result: Result<T, Problem>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(problem) => {
            assert_eq!(problem.status, 400, "{problem}");
            assert!(problem.message.len() < 600, "{problem}");
            problem.code
        }
    }
}
