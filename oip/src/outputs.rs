//! Which outputs a request wants, and in which form.

use std::borrow::Cow;

use batchfleet_broker::{Datatype, ModelSpec};

use super::{
    Problem, document,
    json::{Kind, Reader},
    parameters, quote,
};

/// An output to be sent, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedOutput {
    /// Its name in the model.
    pub name: String,
    /// As bytes after the JSON, instead of numbers within.
    pub binary: bool,
}

/// An output as a request asks for it.
pub(super) struct Asked<'a> {
    name: Cow<'a, str>,
    binary: Option<bool>,
}

impl<'a> Asked<'a> {
    /// Reads the `outputs` of a request; `null` is none.
    pub(super) fn read(reader: &mut Reader<'a>, model: &ModelSpec) -> Result<Vec<Self>, Problem> {
        match reader.kind()? {
            Kind::Null => return reader.null().map(|_| Vec::new()),
            Kind::Array => {}
            kind => return Err(bad(format!("outputs should be an array, not {kind}"))),
        }
        let mut all = Vec::new();
        reader.array(|reader| {
            let at = all.len();
            if at == model.outputs.len() {
                return Err(bad(format!("the model has {at} outputs, no more")));
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
        let (mut name, mut binary) = (None, None);
        reader.object(|reader, key| match key {
            "name" => {
                name = Some(document::name(reader, "bad_outputs")?);
                Ok(())
            }
            "parameters" => parameters::read(reader, |name, value| {
                match name {
                    "binary_data" => binary = Some(parameters::boolean(name, &value)?),
                    "classification" if value.to_u64() != Some(0) => {
                        return Err(Problem::unsupported("the classification extension"));
                    }
                    _ => {}
                }
                Ok(())
            }),
            _ => reader.skip(),
        })?;
        let name = name.ok_or_else(|| bad("name is missing"))?;
        Ok(Self { name, binary })
    }
}

/// The outputs to send, in the model's order: those asked for, or all when none are named.
pub(super) fn resolve(
    asked: &[Asked<'_>],
    binary: bool,
    model: &ModelSpec,
) -> Result<Vec<WantedOutput>, Problem> {
    for (at, one) in asked.iter().enumerate() {
        if !model.outputs.iter().any(|output| output.name == one.name) {
            return Err(bad(format!("the model has no output {}", quote(&one.name))));
        }
        if asked[..at].iter().any(|other| other.name == one.name) {
            return Err(bad(format!("output {} is asked for twice", quote(&one.name))));
        }
    }
    let mut wanted = Vec::with_capacity(model.outputs.len());
    for output in &model.outputs {
        let named = asked.iter().find(|one| one.name == output.name);
        if named.is_none() && !asked.is_empty() {
            continue;
        }
        let binary = named.and_then(|one| one.binary).unwrap_or(binary);
        if !binary {
            has_json_form(&output.name, output.datatype)?;
        }
        wanted.push(WantedOutput { name: output.name.clone(), binary });
    }
    Ok(wanted)
}

/// Half precision has none in the protocol: refused before the model runs for nothing.
pub(super) fn has_json_form(name: &str, datatype: Datatype) -> Result<(), Problem> {
    if matches!(datatype, Datatype::Fp16 | Datatype::Bf16) {
        return Err(Problem::unsupported(format!(
            "output {} is {datatype}, which cannot be written as JSON; ask for binary_data",
            quote(name)
        )));
    }
    Ok(())
}

fn bad(message: impl Into<String>) -> Problem {
    Problem::bad("bad_outputs", message)
}
