//! The outputs that a request asks for, and their form.

use std::borrow::Cow;

use batchfleet_broker::{Datatype, ModelSpec, TensorSpec};

use crate::{
    json::{Kind, Reader},
    names, parameters,
    problem::{Problem, quote},
};

/// An output to send, and its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedOutput {
    /// The name of the output in the model.
    pub name: String,
    /// Whether to send the output as bytes after the JSON instead of as JSON.
    pub binary: bool,
    /// How many classes to send, the highest values first, instead of the output itself; 0 for the
    /// output itself.
    pub classes: u32,
}

/// An output as named in the request.
pub(crate) struct RequestedOutput<'a> {
    name: Cow<'a, str>,
    binary: Option<bool>,
    classes: u32,
}

impl<'a> RequestedOutput<'a> {
    /// An output that names no form, and the number of its classes to send.
    pub(crate) fn new(name: impl Into<Cow<'a, str>>, classes: u32) -> Self {
        Self { name: name.into(), binary: None, classes }
    }

    /// Reads the `outputs` of a request; `null` is an empty list.
    pub(crate) fn read(reader: &mut Reader<'a>, model: &ModelSpec) -> Result<Vec<Self>, Problem> {
        match reader.kind()? {
            Kind::Null => return reader.null().map(|_| Vec::new()),
            Kind::Array => {}
            kind => return Err(bad(format!("outputs should be an array, not {kind}"))),
        }
        let mut all = Vec::new();
        reader.array(|reader| {
            let at = all.len();
            if at == model.outputs.len() {
                return Err(bad(format!("there are more outputs than the {at} of the model")));
            }
            let one = Self::read_one(reader);
            all.push(one.map_err(|problem| problem.within(format_args!("outputs[{at}]")))?);
            Ok(())
        })?;
        Ok(all)
    }

    fn read_one(reader: &mut Reader<'a>) -> Result<Self, Problem> {
        if reader.kind()? != Kind::Object {
            return Err(bad("an output should be an object"));
        }
        let (mut name, mut binary, mut classes) = (None, None, 0);
        reader.object(|reader, key| match key {
            "name" => {
                name = Some(names::tensor(reader, "bad_outputs")?);
                Ok(())
            }
            "parameters" => parameters::read(reader, |name, value| {
                match name {
                    "binary_data" => binary = Some(parameters::boolean(name, &value)?),
                    "classification" => classes = parameters::class_count(&value)?,
                    _ => {}
                }
                Ok(())
            }),
            _ => reader.skip(),
        })?;
        let name = name.ok_or_else(|| bad("name is missing"))?;
        Ok(Self { name, binary, classes })
    }
}

/// The outputs to send, in the model's order: the `requested` outputs, or all outputs if the list
/// is empty. `binary` applies to outputs that name no form.
pub(crate) fn resolve(
    requested: &[RequestedOutput<'_>],
    binary: bool,
    model: &ModelSpec,
) -> Result<Vec<WantedOutput>, Problem> {
    for (at, RequestedOutput { name, .. }) in requested.iter().enumerate() {
        if !model.outputs.iter().any(|output| output.name == *name) {
            return Err(bad(format!("the model has no output {}", quote(name))));
        }
        if requested[..at].iter().any(|other| other.name == *name) {
            return Err(bad(format!("output {} is requested twice", quote(name))));
        }
    }
    let mut wanted = Vec::with_capacity(model.outputs.len());
    for output in &model.outputs {
        let named = requested.iter().find(|requested| requested.name == output.name);
        if named.is_none() && !requested.is_empty() {
            continue;
        }
        let binary = named.and_then(|named| named.binary).unwrap_or(binary);
        let classes = named.map_or(0, |named| named.classes);
        if classes > 0 {
            has_classes(output, model.batches())?;
        } else if !binary {
            has_json_form(&output.name, output.datatype)?;
        }
        wanted.push(WantedOutput { name: output.name.clone(), binary, classes });
    }
    Ok(wanted)
}

/// Refuses an output in half precision, which the protocol cannot write as JSON, before the model
/// runs.
pub(crate) fn has_json_form(name: &str, datatype: Datatype) -> Result<(), Problem> {
    if matches!(datatype, Datatype::Fp16 | Datatype::Bf16) {
        return Err(Problem::unsupported(format!(
            "output {} is {datatype}, which cannot be written as JSON; ask for binary_data",
            quote(name)
        )));
    }
    Ok(())
}

/// Refuses the classes of an output whose elements are not numbers, or whose rows are not its first
/// dimension.
fn has_classes(output: &TensorSpec, batches: bool) -> Result<(), Problem> {
    let TensorSpec { name, datatype, row_axis, .. } = output;
    if matches!(datatype, Datatype::Bool | Datatype::Bytes) {
        return Err(bad(format!(
            "class result not available for output due to unsupported type '{datatype}': output {} \
             holds no numbers",
            quote(name)
        )));
    }
    if batches && row_axis.is_some_and(|axis| axis != 0) {
        return Err(Problem::unsupported(format!(
            "classification of output {}, whose rows are not its first dimension",
            quote(name)
        )));
    }
    Ok(())
}

fn bad(message: impl Into<String>) -> Problem {
    Problem::bad("bad_outputs", message)
}
