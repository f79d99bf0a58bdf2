//! The `parameters` objects of requests, inputs and outputs: named scalars.

use std::{borrow::Cow, time::Duration};

use batchfleet_broker::Priority;

use crate::{
    json::{Kind, Reader},
    number::Number,
    problem::{Problem, quote},
};

/// Maximum number of parameters in an object.
const MAX_PARAMETERS: usize = 64;

/// The value of a parameter.
pub(crate) enum Scalar<'a> {
    Bool(bool),
    Number(Number<'a>),
    /// A whole number of at least 0, from a message.
    Whole(u64),
    /// Any other number, from a message.
    NotWhole,
    Text(Cow<'a, str>),
}

impl<'a> Scalar<'a> {
    /// Reads a value; `None` if the value is not a scalar.
    fn read(reader: &mut Reader<'a>) -> Result<Option<Self>, Problem> {
        if let Some(number) = reader.number() {
            return Ok(Some(Self::Number(number)));
        }
        Ok(match reader.kind()? {
            Kind::Bool => Some(Self::Bool(reader.bool()?)),
            Kind::Text => Some(Self::Text(reader.text()?)),
            _ => {
                reader.skip()?;
                None
            }
        })
    }

    /// The value as a whole number of at least 0; `None` for any other value.
    pub(crate) fn to_u64(&self) -> Option<u64> {
        match self {
            Self::Number(number) => number.to_integer(),
            Self::Whole(number) => Some(*number),
            Self::Bool(_) | Self::NotWhole | Self::Text(_) => None,
        }
    }

    /// The value as a boolean; `None` for any other value.
    pub(crate) fn to_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Number(_) | Self::Whole(_) | Self::NotWhole | Self::Text(_) => None,
        }
    }
}

/// Reads a `parameters` object, or `null` for an empty object, and calls `parameter` for each
/// member. `parameter` should ignore unknown names. This function refuses parameters that point to
/// data outside the body.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    mut parameter: impl FnMut(&str, Scalar<'_>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    match reader.kind()? {
        Kind::Null => return reader.null().map(drop),
        Kind::Object => {}
        kind => return Err(bad(format!("parameters should be an object, not {kind}"))),
    }
    let mut count = 0;
    reader.object(|reader, name| {
        self::count(&mut count)?;
        let value = Scalar::read(reader)?.ok_or_else(|| {
            bad(format!("parameter {} should be a string, a number or a boolean", quote(name)))
        })?;
        refuse(name)?;
        parameter(name, value)
    })
}

/// Counts one more parameter of an object.
pub(crate) fn count(count: &mut usize) -> Result<(), Problem> {
    *count += 1;
    if *count > MAX_PARAMETERS {
        return Err(bad(format!("there are more than {MAX_PARAMETERS} parameters")));
    }
    Ok(())
}

/// Refuses reserved names, and parameters that point to data outside the request.
pub(crate) fn refuse(name: &str) -> Result<(), Problem> {
    if name.starts_with("triton_") {
        return Err(bad(format!("{}: names that begin with triton_ are reserved", quote(name))));
    }
    if name.starts_with("shared_memory") || ["file", "url", "uri"].contains(&name) {
        return Err(Problem::unsupported(format!(
            "parameter {}: tensors are sent in the body only",
            quote(name)
        )));
    }
    Ok(())
}

/// The request parameters that this server supports.
#[derive(Default)]
pub(crate) struct RequestParameters {
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: Priority,
    pub(crate) binary_outputs: bool,
}

impl RequestParameters {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Problem> {
        let mut all = Self::default();
        read(reader, |name, value| all.set(name, &value))?;
        Ok(all)
    }

    /// Takes one parameter; unknown names are ignored.
    pub(crate) fn set(&mut self, name: &str, value: &Scalar<'_>) -> Result<(), Problem> {
        match name {
            "timeout" => self.timeout = timeout(value)?,
            "priority" => {
                let level = value.to_u64().ok_or_else(|| {
                    bad("priority should be a whole number: 1 the highest, 0 the default")
                })?;
                self.priority = match level {
                    1 => Priority::Critical,
                    0 | 2 => Priority::Default,
                    _ => Priority::Sheddable,
                };
            }
            "binary_data_output" => self.binary_outputs = boolean(name, value)?,
            "sequence_id" if !no_sequence(value) => {
                return Err(Problem::unsupported("sequence_id: models are stateless"));
            }
            "sequence_start" | "sequence_end" if boolean(name, value)? => {
                return Err(Problem::unsupported(format!("{name}: models are stateless")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The value of a boolean parameter.
pub(crate) fn boolean(name: &str, value: &Scalar<'_>) -> Result<bool, Problem> {
    value.to_bool().ok_or_else(|| bad(format!("{name} should be true or false")))
}

/// The value of `classification`: how many classes of an output to send.
pub(crate) fn class_count(value: &Scalar<'_>) -> Result<u32, Problem> {
    let count =
        value.to_u64().ok_or_else(|| bad("classification should be a whole number of classes"))?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The value of `timeout`; 0 means no timeout.
fn timeout(value: &Scalar<'_>) -> Result<Option<Duration>, Problem> {
    let micros = value.to_u64().ok_or_else(|| {
        bad("timeout should be a whole number of microseconds, or 0 for no timeout")
    })?;
    Ok((micros > 0).then(|| Duration::from_micros(micros)))
}

/// Whether a `sequence_id` means "no sequence": clients that support sequences write 0 or "".
fn no_sequence(id: &Scalar<'_>) -> bool {
    matches!(id, Scalar::Text(text) if text.is_empty()) || id.to_u64() == Some(0)
}

fn bad(message: impl Into<String>) -> Problem {
    Problem::bad("bad_parameter", message)
}
