//! The parameters of requests, inputs and outputs: maps of names to scalars.

use bytes::Bytes;

use super::wire::{Fields, Value};
use crate::{
    parameters::{self, Scalar},
    problem::Problem,
};

/// With this parameter a client asks for a last response without outputs. The only response to a request
/// is its last one, so that there is nothing to add. Triton's C++ client sends the parameter in every call.
const EMPTY_FINAL: &str = "triton_enable_empty_final_response";

/// Reads one entry of a map, the `count`-th of its object, and passes it to `parameter`.
pub(crate) fn read(
    entry: Bytes,
    count: &mut usize,
    mut parameter: impl FnMut(&str, &Scalar<'_>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    parameters::count(count)?;
    let (mut name, mut value) = (String::new(), None);
    let mut fields = Fields::of(entry);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => name = field.text()?,
            2 => value = scalar(field.bytes()?)?,
            _ => {}
        }
    }
    if name == EMPTY_FINAL {
        return Ok(());
    }
    parameters::refuse(&name)?;
    // An entry without a value says nothing.
    value.map_or(Ok(()), |value| parameter(&name, &value))
}

/// The value in a message `InferParameter`; the last of several counts.
fn scalar(message: Bytes) -> Result<Option<Scalar<'static>>, Problem> {
    let mut fields = Fields::of(message);
    let mut scalar = None;
    while let Some(field) = fields.next()? {
        scalar = Some(match (field.number, &field.value) {
            (1, Value::Varint(value)) => Scalar::Bool(*value != 0),
            (2, Value::Varint(value)) if value.cast_signed() < 0 => Scalar::NotWhole,
            (2 | 5, Value::Varint(value)) => Scalar::Whole(*value),
            (3, Value::Bytes(_)) => Scalar::Text(field.text()?.into()),
            (4, Value::Fixed64(_)) => Scalar::NotWhole,
            (1..=5, _) => return Err(field.mistyped()),
            _ => continue,
        });
    }
    Ok(scalar)
}
