//! Parses inference requests: converts the bytes of a body to tensors that fit the model.

use std::time::Duration;

use batchfleet_broker::{Datatype, ModelSpec, Priority, Tensor, TensorSpec};
use bytes::Bytes;

pub use crate::{binary::HeaderLength, outputs::WantedOutput};
use crate::{
    binary::{self, Tensors},
    document::{Document, Input, Source},
    outputs,
    problem::{Problem, quote},
    shape,
};

/// A request whose inputs and outputs fit the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferRequest {
    /// The client's id for the request, echoed in the response. Clients may repeat ids.
    pub id: Option<String>,
    /// The inputs, in the model's order. Optional inputs may be missing.
    pub inputs: Vec<Tensor>,
    /// The outputs to send, in the model's order.
    pub outputs: Vec<WantedOutput>,
    /// The number of rows that the request adds to a batch.
    pub rows: u32,
    /// The timeout from the request, if present. Not yet limited to the longest deadline that the
    /// gateway allows.
    pub timeout: Option<Duration>,
    /// The priority class from the request. Not yet limited to the classes that the client may use.
    pub priority: Priority,
}

/// What a binary request asks for, known before its tensors have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The inputs, in the model's order, without their bytes.
    pub inputs: Vec<Tensor>,
    /// The number of rows that the request adds to a batch.
    pub rows: u32,
    /// As [`InferRequest::timeout`].
    pub timeout: Option<Duration>,
    /// As [`InferRequest::priority`].
    pub priority: Priority,
}

/// Reads what a binary request to `model` asks for from its `json`, or from the length of a body without
/// JSON. The tensors are not checked.
///
/// # Errors
///
/// As [`parse`], as far as the tensors are not concerned.
pub fn outline(json: Option<&[u8]>, length: usize, model: &ModelSpec) -> Result<Outline, Problem> {
    let Some(json) = json else {
        let (spec, shape) = raw_input(length, model)?;
        let inputs = vec![described(spec.name.clone(), spec.datatype, shape)];
        return Ok(Outline { inputs, rows: 1, timeout: None, priority: Priority::Default });
    };
    let Document { inputs, parameters, .. } = Document::read(json, model)?;
    let inputs = inputs.into_iter();
    let inputs =
        inputs.map(|input| described(input.name.into_owned(), input.datatype, input.shape));
    let inputs = in_order(inputs.collect(), model)?;
    let rows = shape::rows(&inputs, model)?;
    Ok(Outline { inputs, rows, timeout: parameters.timeout, priority: parameters.priority })
}

/// A tensor without bytes.
fn described(name: String, datatype: Datatype, shape: Vec<u64>) -> Tensor {
    Tensor { name, datatype, shape, data: Bytes::new() }
}

/// Reads the body of a request to `model`.
///
/// Binary tensors are slices of `body`. Memory is allocated for data that is present, never for the
/// size that a shape claims.
pub fn parse(
    body: &Bytes,
    header: HeaderLength,
    model: &ModelSpec,
) -> Result<InferRequest, Problem> {
    let json_length = match header {
        HeaderLength::Raw => return raw(body, model),
        HeaderLength::Absent => None,
        HeaderLength::Json(length) => Some(length),
    };
    let (json, tensors) = binary::split(body, json_length)?;
    let document = Document::read(&json, model)?;
    let inputs = in_order(attach(document.inputs, tensors)?, model)?;
    Ok(InferRequest {
        rows: shape::rows(&inputs, model)?,
        inputs,
        outputs: outputs::resolve(&document.outputs, document.parameters.binary_outputs, model)?,
        id: document.id,
        timeout: document.parameters.timeout,
        priority: document.parameters.priority,
    })
}

/// Gives each input its bytes. Binary tensors follow the JSON in the order of the inputs.
fn attach(inputs: Vec<Input<'_>>, mut tensors: Option<Tensors>) -> Result<Vec<Tensor>, Problem> {
    let mut attached = Vec::with_capacity(inputs.len());
    for (at, Input { name, datatype, shape, source }) in inputs.into_iter().enumerate() {
        let data = match (source, &mut tensors) {
            (Source::Json(data), _) => Ok(data.into()),
            (Source::Binary(size), Some(tensors)) => tensors.take(size).and_then(|data| {
                binary::check(&data, datatype, &shape)?;
                Ok(data)
            }),
            (Source::Binary(_), None) => Err(Problem::bad(
                "bad_binary",
                "binary_data_size needs the header Inference-Header-Content-Length",
            )),
        };
        let data = data.map_err(|problem| problem.within(format_args!("inputs[{at}]")))?;
        attached.push(Tensor { name: name.into_owned(), datatype, shape, data });
    }
    tensors.map_or(Ok(()), Tensors::end)?;
    Ok(attached)
}

/// Puts the inputs in the model's order. Every input of the model must be present once, or not at
/// all if it is optional, with the model's datatype and a shape that fits.
pub(crate) fn in_order(inputs: Vec<Tensor>, model: &ModelSpec) -> Result<Vec<Tensor>, Problem> {
    let mut ordered: Vec<Option<Tensor>> = vec![None; model.inputs.len()];
    for input in inputs {
        let name = quote(&input.name);
        let bad = |code, what: String| Problem::bad(code, format!("input {name} {what}"));
        let Some(at) = model.inputs.iter().position(|spec| spec.name == input.name) else {
            return Err(bad("bad_inputs", "is not an input of the model".into()));
        };
        let spec = &model.inputs[at];
        if input.datatype != spec.datatype {
            let what = format!("is {}, but the model expects {}", input.datatype, spec.datatype);
            return Err(bad("bad_datatype", what));
        }
        shape::fit(&input.shape, spec, model.batches())
            .map_err(|problem| problem.within(format_args!("input {name}")))?;
        if ordered[at].replace(input).is_some() {
            return Err(bad("bad_inputs", "is given twice".into()));
        }
    }
    let present = ordered.into_iter().zip(&model.inputs).filter_map(|(input, spec)| {
        let missing = || {
            let name = quote(&spec.name);
            Problem::bad("bad_inputs", format!("input {name} is missing"))
        };
        if input.is_none() && spec.optional { None } else { Some(input.ok_or_else(missing)) }
    });
    present.collect()
}

/// Reads a body without JSON: the bytes of the model's only input, or of its only input that is not
/// optional, as a batch of one row. Every output is sent as binary data.
fn raw(body: &Bytes, model: &ModelSpec) -> Result<InferRequest, Problem> {
    let (spec, shape) = raw_input(body.len(), model)?;
    let data = if spec.datatype == Datatype::Bytes {
        let mut element = Vec::with_capacity(4 + body.len());
        binary::push_element(&mut element, body)?;
        element.into()
    } else {
        body.clone()
    };
    binary::check(&data, spec.datatype, &shape)?;
    let input = Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data };
    Ok(InferRequest {
        id: None,
        inputs: vec![input],
        outputs: outputs::resolve(&[], true, model)?,
        rows: 1,
        timeout: None,
        priority: Priority::Default,
    })
}

/// The input that a body of `bytes` bytes without JSON is, and its shape.
fn raw_input(bytes: usize, model: &ModelSpec) -> Result<(&TensorSpec, Vec<u64>), Problem> {
    let mut required = model.inputs.iter().filter(|input| !input.optional);
    let (first, second) = (required.next(), required.next());
    let only = if model.inputs.len() == 1 { model.inputs.first() } else { first };
    let (Some(spec), None) = (only, second) else {
        let inputs = model.inputs.len();
        let message = format!("a body without JSON is one input, but the model has {inputs}");
        return Err(Problem::bad("bad_inputs", message));
    };
    Ok((spec, shape::resolve(spec, model.batches(), bytes)?))
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::QueueName;

    use super::*;

    fn texts() -> ModelSpec {
        ModelSpec {
            queue: QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: std::num::NonZeroU32::new(64),
            inputs: vec![TensorSpec::new("ids", Datatype::Int64, [-1, -1])],
            outputs: Vec::new(),
        }
    }

    #[test]
    fn an_outline_tells_all_but_the_bytes() {
        let json = br#"{"parameters":{"timeout":2000000,"priority":1},"inputs":[
            {"name":"ids","datatype":"INT64","shape":[3,2],"parameters":{"binary_data_size":48}}]}"#;
        let outline = outline(Some(json), json.len() + 48, &texts()).unwrap();
        let mut body = json.to_vec();
        body.extend([0; 48]);
        let InferRequest { inputs, rows, timeout, priority, .. } =
            parse(&body.into(), HeaderLength::Json(json.len()), &texts()).unwrap();
        let inputs = inputs.into_iter().map(|input| Tensor { data: Bytes::new(), ..input });
        assert_eq!(timeout, Some(Duration::from_secs(2)));
        assert_eq!(outline, Outline { inputs: inputs.collect(), rows, timeout, priority });
    }

    #[test]
    fn the_outline_of_a_body_without_json_is_its_length() {
        let outline = outline(None, 48, &texts()).unwrap();
        assert_eq!((outline.rows, &outline.inputs[0].shape[..]), (1, &[1, 6][..]));
    }

    #[test]
    fn an_outline_has_the_mistakes_of_its_json() {
        let shape = |shape: &str| {
            format!(
                r#"{{"inputs":[{{"name":"ids","datatype":"INT64","shape":{shape},"parameters":{{"binary_data_size":8}}}}]}}"#
            )
        };
        for (json, code) in [
            ("{", "bad_json"),
            (&*shape("[0,1]"), "bad_shape"),
            (&*shape("[65,1]"), "batch_too_large"),
            (r#"{"inputs":[]}"#, "bad_inputs"),
        ] {
            let problem = outline(Some(json.as_bytes()), 1000, &texts()).unwrap_err();
            assert_eq!(problem.code, code, "{json}");
        }
    }
}
