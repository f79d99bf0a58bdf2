//! Version 1 of KServe's protocol, as TensorFlow Serving also speaks it: `instances` holds a value for
//! each row, `inputs` a tensor for each input. Neither names a datatype or a shape, so both follow from
//! the model and from the nesting of the arrays.

mod answer;
mod measure;

use batchfleet_broker::{ModelSpec, Priority, Tensor, TensorSpec};

pub use self::answer::encode;
use self::measure::measure;
use crate::{
    data,
    infer::{InferRequest, in_order},
    json::{Kind, Reader},
    outputs,
    problem::{Problem, quote},
    shape,
};

/// The form of a request, and of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `instances`, answered with `predictions`: a value for each row, or an object with a value for
    /// each input.
    Rows,
    /// `inputs`, answered with `outputs`: a tensor, or an object with a tensor for each input.
    Columns,
}

/// Reads the body of a request to `model`.
///
/// Memory is allocated for data that is present, never for the size that a shape claims.
pub fn parse(body: &[u8], model: &ModelSpec) -> Result<(InferRequest, Form), Problem> {
    let mut reader = Reader::new(body)?;
    if reader.kind()? != Kind::Object {
        reader.skip()?;
        reader.end()?;
        return Err(Problem::bad("bad_request", "the request should be a JSON object"));
    }
    let mut read = None;
    reader.object(|reader, key| {
        let form = match key {
            "instances" => Form::Rows,
            "inputs" => Form::Columns,
            _ => return reader.skip(),
        };
        let inputs = match form {
            Form::Rows => rows(reader, model)?,
            Form::Columns => columns(reader, model)?,
        };
        match read.replace((inputs, form)) {
            None => Ok(()),
            Some(_) => Err(bad("a request has either instances or inputs, not both")),
        }
    })?;
    reader.end()?;
    let (inputs, form) = read.ok_or_else(|| bad("a request needs instances or inputs"))?;
    let inputs = in_order(inputs, model)?;
    let request = InferRequest {
        id: None,
        rows: shape::rows(&inputs, model)?,
        inputs,
        outputs: outputs::resolve(&[], false, model)?,
        timeout: None,
        priority: Priority::Default,
    };
    Ok((request, form))
}

/// Reads `instances`.
fn rows(reader: &mut Reader<'_>, model: &ModelSpec) -> Result<Vec<Tensor>, Problem> {
    if reader.kind()? != Kind::Array {
        return Err(bad("instances should be an array with a value for each row"));
    }
    if !has_named_rows(reader)? {
        return Ok(vec![tensor(reader, only_input(model)?)?]);
    }
    // The values of an input are apart: they are copied next to each other, and then read as one array.
    let mut joined = vec![String::new(); model.inputs.len()];
    let mut counts = vec![0_usize; model.inputs.len()];
    let mut instances = 0;
    reader.array(|reader| {
        if reader.kind()? != Kind::Object {
            return Err(bad("instances should be all objects, or all values"));
        }
        instances += 1;
        reader.object(|reader, name| {
            let at = position(model, name)?;
            joined[at].push(if counts[at] == 0 { '[' } else { ',' });
            joined[at].push_str(reader.raw()?);
            counts[at] += 1;
            Ok(())
        })
    })?;
    let mut tensors = Vec::with_capacity(model.inputs.len());
    for ((spec, mut text), count) in model.inputs.iter().zip(joined).zip(counts) {
        if count == 0 {
            continue;
        }
        if count < instances {
            let name = quote(&spec.name);
            return Err(bad(format!("input {name} is missing in {} instances", instances - count)));
        }
        text.push(']');
        tensors.push(tensor(&mut Reader::new(text.as_bytes())?, spec)?);
    }
    Ok(tensors)
}

/// Whether the first instance is an object.
fn has_named_rows(reader: &Reader<'_>) -> Result<bool, Problem> {
    let mut first = None;
    reader.clone().array(|reader| {
        first.get_or_insert(reader.kind()?);
        reader.skip()
    })?;
    Ok(first == Some(Kind::Object))
}

/// Reads `inputs`.
fn columns(reader: &mut Reader<'_>, model: &ModelSpec) -> Result<Vec<Tensor>, Problem> {
    if reader.kind()? != Kind::Object {
        return Ok(vec![tensor(reader, only_input(model)?)?]);
    }
    let mut tensors = Vec::with_capacity(model.inputs.len());
    reader.object(|reader, name| {
        let spec = &model.inputs[position(model, name)?];
        tensors.push(tensor(reader, spec)?);
        Ok(())
    })?;
    Ok(tensors)
}

/// Reads nested arrays as a tensor for this input.
fn tensor(reader: &mut Reader<'_>, spec: &TensorSpec) -> Result<Tensor, Problem> {
    let place = || format!("input {}", quote(&spec.name));
    let mut shape = measure(&mut reader.clone()).map_err(|problem| problem.within(place()))?;
    // A row of one element may be written without its own array.
    if shape.len() + 1 == spec.shape.len() && spec.shape.last() == Some(&1) {
        shape.push(1);
    }
    let data = data::read(reader, spec.datatype, &shape);
    let data = data.map_err(|problem| problem.within(place()))?.into();
    Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data })
}

/// The input of a request that names none.
fn only_input(model: &ModelSpec) -> Result<&TensorSpec, Problem> {
    let mut required = model.inputs.iter().filter(|input| !input.optional);
    match (model.inputs.as_slice(), required.next(), required.next()) {
        ([only], ..) | (_, Some(only), None) => Ok(only),
        (inputs, ..) => {
            let message =
                format!("the request names no inputs, but the model has {}", inputs.len());
            Err(bad(message))
        }
    }
}

fn position(model: &ModelSpec, name: &str) -> Result<usize, Problem> {
    let found = model.inputs.iter().position(|input| input.name == name);
    found.ok_or_else(|| bad(format!("{} is not an input of the model", quote(name))))
}

fn bad(message: impl Into<String>) -> Problem {
    Problem::bad("bad_inputs", message)
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::Datatype;

    use super::*;
    use crate::samples::{model, simple, tensor as spec, verdict};

    fn parsed(model: &ModelSpec, body: &str) -> Result<(InferRequest, Form), Problem> {
        parse(body.as_bytes(), model)
    }

    fn two() -> ModelSpec {
        let inputs =
            vec![spec("a", Datatype::Int8, &[-1, 2]), spec("b", Datatype::Bytes, &[-1, 1])];
        model(inputs, vec![spec("y", Datatype::Fp32, &[-1])])
    }

    #[test]
    fn the_only_input_is_read_from_rows_and_from_columns() {
        for (key, form) in [("instances", Form::Rows), ("inputs", Form::Columns)] {
            let body = format!(r#"{{"signature_name":"any","{key}":[[1,2,3],[4,5,6]]}}"#);
            let (request, found) = parsed(&simple(Datatype::Uint8), &body).unwrap();
            assert_eq!((found, request.rows), (form, 2));
            assert_eq!(request.inputs[0].shape, [2, 3]);
            assert_eq!(request.inputs[0].data.as_ref(), [1, 2, 3, 4, 5, 6]);
        }
    }

    #[test]
    fn rows_and_columns_with_names_are_the_same_request() {
        let rows = r#"{"instances":[{"a":[1,2],"b":"x"},{"b":"yz","a":[3,4]}]}"#;
        let columns = r#"{"inputs":{"b":[["x"],["yz"]],"a":[[1,2],[3,4]]}}"#;
        let (by_rows, _) = parsed(&two(), rows).unwrap();
        assert_eq!(by_rows, parsed(&two(), columns).unwrap().0);
        assert_eq!(by_rows.inputs[0].data.as_ref(), [1, 2, 3, 4]);
        assert_eq!(by_rows.inputs[1].shape, [2, 1]);
    }

    #[test]
    fn mistakes_are_refused_with_a_code() {
        for (body, code) in [
            ("[]", "bad_request"),
            ("{}", "bad_inputs"),
            (
                r#"{"instances":[{"a":[1,2],"b":"x"}],"inputs":{"a":[[1,2]],"b":["x"]}}"#,
                "bad_inputs",
            ),
            (r#"{"instances":{"a":1}}"#, "bad_inputs"),
            (r#"{"instances":[[1,2]]}"#, "bad_inputs"),
            (r#"{"instances":[]}"#, "bad_inputs"),
            (r#"{"instances":[{"a":[1,2],"b":"x"},3]}"#, "bad_inputs"),
            (r#"{"instances":[{"a":[1,2],"b":"x"},{"a":[1,2]}]}"#, "bad_inputs"),
            (r#"{"instances":[{"a":[1,2],"c":"x"}]}"#, "bad_inputs"),
            (r#"{"instances":[{"a":[1,2]}]}"#, "bad_inputs"),
            (r#"{"instances":[{"a":[1,2],"a":[1,2]}]}"#, "bad_json"),
            (r#"{"instances":[{"a":[1,2],"b":{"b64":"eA=="}}]}"#, "bad_data"),
            (r#"{"instances":[{"a":[1,2,3],"b":"x"}]}"#, "bad_shape"),
            (r#"{"instances":[{"a":[1,2],"b":"x"},{"a":[1],"b":"x"}]}"#, "bad_shape"),
            (r#"{"inputs":{"a":[[1,2]],"b":["x","y"]}}"#, "bad_shape"),
            (r#"{"inputs":{"a":[[1,2]],"b":["x"]}} 1"#, "bad_json"),
        ] {
            assert_eq!(verdict(parsed(&two(), body)), code, "{body}");
        }
    }
}
