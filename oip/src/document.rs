//! The JSON of an inference request as the client wrote it, not yet checked against the model.

use std::borrow::Cow;

use batchfleet_broker::{Datatype, ModelSpec};

use crate::{
    data,
    json::{Kind, Reader},
    names,
    outputs::RequestedOutput,
    parameters::{self, RequestParameters},
    problem::{Problem, quote},
    shape,
};

/// The longest `id`, in bytes.
pub(crate) const MAX_ID: usize = 255;

/// An inference request as written.
#[derive(Default)]
pub(crate) struct Document<'a> {
    pub(crate) id: Option<String>,
    pub(crate) parameters: RequestParameters,
    pub(crate) inputs: Vec<Input<'a>>,
    pub(crate) outputs: Vec<RequestedOutput<'a>>,
}

/// An input as written.
pub(crate) struct Input<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) datatype: Datatype,
    pub(crate) shape: Vec<u64>,
    pub(crate) source: Source,
}

/// The location of an input's elements.
pub(crate) enum Source {
    /// In the JSON; contains the converted bytes.
    Json(Vec<u8>),
    /// After the JSON; contains the number of bytes.
    Binary(u64),
}

impl<'a> Document<'a> {
    /// Reads the JSON of a request to `model`.
    pub(crate) fn read(json: &'a [u8], model: &ModelSpec) -> Result<Self, Problem> {
        let mut reader = Reader::new(json)?;
        if reader.kind()? != Kind::Object {
            reader.skip()?;
            reader.end()?;
            return Err(Problem::bad("bad_request", "the request should be a JSON object"));
        }
        let mut document = Self::default();
        reader.object(|reader, key| {
            match key {
                "id" => document.id = id(reader)?,
                "parameters" => document.parameters = RequestParameters::read(reader)?,
                "inputs" => document.inputs = inputs(reader, model)?,
                "outputs" => document.outputs = RequestedOutput::read(reader, model)?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        reader.end()?;
        Ok(document)
    }
}

fn id(reader: &mut Reader<'_>) -> Result<Option<String>, Problem> {
    if reader.null()? {
        return Ok(None);
    }
    if reader.kind()? != Kind::Text {
        return Err(Problem::bad("bad_id", "id should be a string"));
    }
    let id = reader.text()?;
    if id.len() > MAX_ID {
        return Err(Problem::bad("bad_id", format!("id has more than {MAX_ID} bytes")));
    }
    Ok(Some(id.into_owned()))
}

fn inputs<'a>(reader: &mut Reader<'a>, model: &ModelSpec) -> Result<Vec<Input<'a>>, Problem> {
    if reader.kind()? != Kind::Array {
        return Err(Problem::bad("bad_inputs", "inputs should be an array"));
    }
    let mut inputs = Vec::new();
    reader.array(|reader| {
        let at = inputs.len();
        if at == model.inputs.len() {
            let message = format!("there are more inputs than the {at} of the model");
            return Err(Problem::bad("bad_inputs", message));
        }
        let input = Draft::read(reader).and_then(Draft::finish);
        inputs.push(input.map_err(|problem| problem.within(format_args!("inputs[{at}]")))?);
        Ok(())
    })?;
    Ok(inputs)
}

/// An input during parsing. The fields may have any order.
#[derive(Default)]
struct Draft<'a> {
    name: Option<Cow<'a, str>>,
    datatype: Option<Datatype>,
    shape: Option<Vec<u64>>,
    binary_size: Option<u64>,
    data: Option<Vec<u8>>,
}

impl<'a> Draft<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Problem> {
        if reader.kind()? != Kind::Object {
            return Err(Problem::bad("bad_inputs", "an input should be an object"));
        }
        let mut draft = Self::default();
        let mut early = None;
        reader.object(|reader, key| {
            match key {
                "name" => draft.name = Some(names::tensor(reader, "bad_inputs")?),
                "datatype" => draft.datatype = Some(datatype(reader)?),
                "shape" => draft.shape = Some(shape::read(reader)?),
                "parameters" => parameters::read(reader, |name, value| {
                    if name == "binary_data_size" {
                        draft.binary_size = Some(value.to_u64().ok_or_else(|| {
                            Problem::bad("bad_binary", "binary_data_size should be a whole number")
                        })?);
                    }
                    Ok(())
                })?,
                "data" if reader.kind()? == Kind::Null => reader.skip()?,
                // Clients usually write datatype and shape first; otherwise the data is read twice.
                "data" if draft.datatype.is_some() && draft.shape.is_some() => {
                    draft.read_data(reader)?;
                }
                "data" => {
                    early = Some(reader.clone());
                    reader.skip()?;
                }
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        if let Some(mut early) = early {
            draft.read_data(&mut early)?;
        }
        Ok(draft)
    }

    fn read_data(&mut self, reader: &mut Reader<'_>) -> Result<(), Problem> {
        if let (Some(datatype), Some(shape)) = (self.datatype, &self.shape) {
            self.data = Some(data::read(reader, datatype, shape)?);
        }
        Ok(())
    }

    fn finish(self) -> Result<Input<'a>, Problem> {
        let missing = |field, code| Problem::bad(code, format!("{field} is missing"));
        let name = self.name.ok_or_else(|| missing("name", "bad_inputs"))?;
        let datatype = self.datatype.ok_or_else(|| missing("datatype", "bad_datatype"))?;
        let shape = self.shape.ok_or_else(|| missing("shape", "bad_shape"))?;
        let source = match (self.data, self.binary_size) {
            (Some(data), None) => Source::Json(data),
            (None, Some(size)) => Source::Binary(size),
            (Some(_), Some(_)) => {
                let message = "data and binary_data_size exclude each other";
                return Err(Problem::bad("bad_binary", message));
            }
            (None, None) => return Err(missing("data (or binary_data_size)", "bad_data")),
        };
        Ok(Input { name, datatype, shape, source })
    }
}

fn datatype(reader: &mut Reader<'_>) -> Result<Datatype, Problem> {
    let bad = |message| Problem::bad("bad_datatype", message);
    match reader.kind()? {
        Kind::Text => {}
        kind => return Err(bad(format!("datatype should be a string, not {kind}"))),
    }
    let name = reader.text()?;
    name.parse().map_err(|_| bad(format!("{} is no datatype", quote(&name))))
}
