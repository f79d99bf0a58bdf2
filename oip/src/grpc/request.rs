//! Reads the message `ModelInferRequest`.

use batchfleet_broker::{Datatype, ModelSpec, Tensor};
use bytes::Bytes;

use super::{
    contents::Contents,
    parameter,
    wire::{Field, Fields, Value, first_varint},
};
use crate::{
    binary,
    document::MAX_ID,
    infer::{InferRequest, in_order},
    outputs::{self, RequestedOutput},
    parameters::{RequestParameters, class_count},
    problem::{Problem, quote},
    shape,
};

/// The model that a request is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The name of the model.
    pub name: String,
    /// The version; `None` for the default version.
    pub version: Option<String>,
    /// The client's id for the request, empty if there is none.
    pub id: String,
}

impl Target {
    /// Reads the model and the id of a request, without the rest.
    ///
    /// # Errors
    ///
    /// The message is malformed.
    pub fn read(message: &Bytes) -> Result<Self, Problem> {
        let mut target = Self::default();
        let mut fields = Fields::of(message.clone());
        while let Some(field) = fields.next()? {
            match field.number {
                1 => target.name = field.text()?,
                2 => target.version = Some(field.text()?).filter(|version| !version.is_empty()),
                3 => target.id = field.text()?,
                _ => {}
            }
        }
        Ok(target)
    }
}

/// Reads the message of a request to `model`. Raw tensors are slices of the message.
///
/// # Errors
///
/// The message is malformed, or does not fit the model.
pub fn parse(message: &Bytes, model: &ModelSpec) -> Result<InferRequest, Problem> {
    let draft = Draft::read(message, model)?;
    if draft.id.len() > MAX_ID {
        return Err(Problem::bad("bad_id", format!("id has more than {MAX_ID} bytes")));
    }
    let inputs = in_order(tensors(draft.inputs, draft.raw)?, model)?;
    Ok(InferRequest {
        rows: shape::rows(&inputs, model)?,
        inputs,
        outputs: outputs::resolve(&draft.outputs, true, model)?,
        id: Some(draft.id).filter(|id| !id.is_empty()),
        timeout: draft.parameters.timeout,
        priority: draft.parameters.priority,
    })
}

/// A request as sent.
#[derive(Default)]
struct Draft {
    id: String,
    parameters: RequestParameters,
    inputs: Vec<Input>,
    outputs: Vec<RequestedOutput<'static>>,
    raw: Vec<Bytes>,
}

/// An input as sent.
#[derive(Default)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    contents: Contents,
}

impl Draft {
    fn read(message: &Bytes, model: &ModelSpec) -> Result<Self, Problem> {
        let (mut draft, mut count) = (Self::default(), 0);
        let mut fields = Fields::of(message.clone());
        while let Some(field) = fields.next()? {
            match field.number {
                3 => draft.id = field.text()?,
                4 => parameter::read(field.bytes()?, &mut count, |name, value| {
                    draft.parameters.set(name, value)
                })?,
                5 => {
                    let at = draft.inputs.len();
                    if at == model.inputs.len() {
                        let message = format!("there are more inputs than the {at} of the model");
                        return Err(Problem::bad("bad_inputs", message));
                    }
                    let input = Input::read(field.bytes()?);
                    draft.inputs.push(input.map_err(|problem| within("inputs", at, problem))?);
                }
                6 => {
                    let at = draft.outputs.len();
                    if at == model.outputs.len() {
                        let message = format!("there are more outputs than the {at} of the model");
                        return Err(Problem::bad("bad_outputs", message));
                    }
                    let output = requested(field.bytes()?);
                    draft.outputs.push(output.map_err(|problem| within("outputs", at, problem))?);
                }
                7 => {
                    if draft.raw.len() == model.inputs.len() {
                        let most = draft.raw.len();
                        let message = format!("raw_input_contents has more than {most} tensors");
                        return Err(Problem::bad("bad_binary", message));
                    }
                    draft.raw.push(field.bytes()?);
                }
                _ => {}
            }
        }
        Ok(draft)
    }
}

impl Input {
    fn read(message: Bytes) -> Result<Self, Problem> {
        let (mut input, mut count) = (Self::default(), 0);
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => input.name = field.text()?,
                2 => input.datatype = field.text()?,
                3 => input.dimensions(&field)?,
                4 => parameter::read(field.bytes()?, &mut count, |_, _| Ok(()))?,
                5 => input.contents.push(field.bytes()?)?,
                _ => {}
            }
        }
        Ok(input)
    }

    /// Appends dimensions: a packed list, or one dimension.
    fn dimensions(&mut self, field: &Field) -> Result<(), Problem> {
        match &field.value {
            Value::Varint(size) => self.dimension(*size),
            Value::Bytes(packed) => {
                let mut rest = &packed[..];
                while !rest.is_empty() {
                    let (size, length) = first_varint(rest)?;
                    self.dimension(size)?;
                    rest = &rest[length..];
                }
                Ok(())
            }
            _ => Err(field.mistyped()),
        }
    }

    fn dimension(&mut self, size: u64) -> Result<(), Problem> {
        if size.cast_signed() < 0 {
            let message = format!("dimension {} is below 0", size.cast_signed());
            return Err(Problem::bad("bad_shape", message));
        }
        self.shape.push(size);
        shape::check_rank(&self.shape)
    }
}

/// Reads the message of a requested output.
fn requested(message: Bytes) -> Result<RequestedOutput<'static>, Problem> {
    let (mut name, mut classes, mut count) = (String::new(), 0, 0);
    let mut fields = Fields::of(message);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => name = field.text()?,
            2 => parameter::read(field.bytes()?, &mut count, |name, value| {
                if name == "classification" {
                    classes = class_count(value)?;
                }
                Ok(())
            })?,
            _ => {}
        }
    }
    Ok(RequestedOutput::new(name, classes))
}

/// Gives each input its bytes: all in raw form, in their order, or all in typed form.
fn tensors(inputs: Vec<Input>, raw: Vec<Bytes>) -> Result<Vec<Tensor>, Problem> {
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(Problem::bad(
            "bad_binary",
            format!("there are {} inputs, but {} raw_input_contents", inputs.len(), raw.len()),
        ));
    }
    let mut raw = raw.into_iter();
    let tensors = inputs.into_iter().enumerate().map(|(at, input)| {
        tensor(input, raw.next()).map_err(|problem| within("inputs", at, problem))
    });
    tensors.collect()
}

fn tensor(input: Input, raw: Option<Bytes>) -> Result<Tensor, Problem> {
    let Input { name, datatype, shape, contents } = input;
    let datatype: Datatype = datatype.parse().map_err(|_| {
        Problem::bad("bad_datatype", format!("{} is no datatype", quote(&datatype)))
    })?;
    let data = match raw {
        Some(_) if !contents.is_absent() => {
            let message = "contents and raw_input_contents exclude each other";
            return Err(Problem::bad("bad_binary", message));
        }
        Some(data) => {
            binary::check(&data, datatype, &shape)?;
            data
        }
        None => contents.convert(datatype, &shape)?,
    };
    Ok(Tensor { name, datatype, shape, data })
}

fn within(list: &str, at: usize, problem: Problem) -> Problem {
    problem.within(format_args!("{list}[{at}]"))
}
