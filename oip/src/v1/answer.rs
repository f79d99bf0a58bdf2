//! Writes answers of version 1 of KServe's protocol.

use batchfleet_broker::{ModelSpec, Tensor};
use bytes::Bytes;

use super::Form;
use crate::{
    infer::WantedOutput,
    problem::{Problem, quote},
    response::{self, Encoded},
};

/// Writes the `wanted` outputs in the form of the request. The value of a model's only output has no
/// name.
///
/// # Errors
///
/// Status 400: an output has no JSON form, or the outputs have no common number of rows and the client
/// asked by rows. Status 500: the model returned a malformed output, or omitted one.
pub fn encode(
    model: &ModelSpec,
    form: Form,
    wanted: &[WantedOutput],
    outputs: &[Tensor],
) -> Result<Encoded, Problem> {
    let mut values = Vec::with_capacity(wanted.len());
    for WantedOutput { name, .. } in wanted {
        let tensor = outputs.iter().find(|tensor| tensor.name == *name).ok_or_else(|| {
            Problem::internal(format!("the model returned no output {}", quote(name)))
        })?;
        values.push(Value { name, nested: response::nested(tensor)? });
    }
    let mut body = Vec::new();
    body.extend_from_slice(match form {
        Form::Rows => b"{\"predictions\":",
        Form::Columns => b"{\"outputs\":",
    });
    match (form, values.as_slice()) {
        (_, [only]) if model.outputs.len() == 1 => body.extend_from_slice(&only.nested.text),
        (Form::Rows, _) => write_rows(&mut body, &values)?,
        (Form::Columns, _) => write_object(&mut body, &values, |value| &value.nested.text)?,
    }
    body.push(b'}');
    Ok(Encoded { json_length: None, body: vec![Bytes::from(body)] })
}

/// An output as nested arrays.
struct Value<'a> {
    name: &'a str,
    nested: response::Nested,
}

fn write_rows(body: &mut Vec<u8>, values: &[Value<'_>]) -> Result<(), Problem> {
    let rows = values.first().map_or(0, |value| value.nested.rows.len());
    if values.iter().any(|value| value.nested.rows.len() != rows) {
        let message =
            "the outputs differ in their number of rows; send inputs instead of instances";
        return Err(Problem::unsupported(message));
    }
    body.push(b'[');
    for row in 0..rows {
        if row > 0 {
            body.push(b',');
        }
        write_object(body, values, |value| &value.nested.text[value.nested.rows[row].clone()])?;
    }
    body.push(b']');
    Ok(())
}

fn write_object<'a>(
    body: &mut Vec<u8>,
    values: &'a [Value<'_>],
    text: impl Fn(&'a Value<'_>) -> &'a [u8],
) -> Result<(), Problem> {
    body.push(b'{');
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        response::write(body, value.name)?;
        body.push(b':');
        body.extend_from_slice(text(value));
    }
    body.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::Datatype;

    use super::*;
    use crate::{
        outputs,
        samples::{model, tensor as spec},
    };

    fn tensor(name: &str, shape: &[u64], data: &[u8]) -> Tensor {
        let data = Bytes::copy_from_slice(data);
        Tensor { name: name.into(), datatype: Datatype::Int8, shape: shape.into(), data }
    }

    fn written(form: Form, outputs: &[Tensor]) -> Result<String, Problem> {
        let specs = outputs.iter().map(|one| spec(&one.name, one.datatype, &[-1, -1])).collect();
        let model = model(vec![], specs);
        let wanted = outputs::resolve(&[], false, &model).unwrap();
        let encoded = encode(&model, form, &wanted, outputs)?;
        Ok(String::from_utf8(encoded.body.concat()).unwrap())
    }

    #[test]
    fn the_only_output_is_nested_by_its_shape() {
        for (shape, text) in [
            (&[2, 3][..], "[[1,2,3],[4,5,6]]"),
            (&[3, 1, 2], "[[[1,2]],[[3,4]],[[5,6]]]"),
            (&[6], "[1,2,3,4,5,6]"),
        ] {
            let output = [tensor("y", shape, &[1, 2, 3, 4, 5, 6])];
            let by_rows = format!("{{\"predictions\":{text}}}");
            assert_eq!(written(Form::Rows, &output).unwrap(), by_rows);
            let by_columns = format!("{{\"outputs\":{text}}}");
            assert_eq!(written(Form::Columns, &output).unwrap(), by_columns);
        }
        let empty = [tensor("y", &[u64::MAX, 0], &[])];
        assert_eq!(written(Form::Rows, &empty).unwrap(), r#"{"predictions":[]}"#);
    }

    #[test]
    fn several_outputs_have_names_in_every_row_or_once() {
        let outputs = [tensor("y", &[2, 1], &[1, 2]), tensor("z", &[2], &[3, 4])];
        let by_rows = r#"{"predictions":[{"y":[1],"z":3},{"y":[2],"z":4}]}"#;
        assert_eq!(written(Form::Rows, &outputs).unwrap(), by_rows);
        let by_columns = r#"{"outputs":{"y":[[1],[2]],"z":[3,4]}}"#;
        assert_eq!(written(Form::Columns, &outputs).unwrap(), by_columns);
        let different = [tensor("y", &[2], &[1, 2]), tensor("z", &[1], &[3])];
        assert_eq!(written(Form::Rows, &different).unwrap_err().code, "unsupported");
        assert!(written(Form::Columns, &different).is_ok());
    }

    #[test]
    fn a_malformed_output_is_a_fault_of_the_model() {
        let short = [tensor("y", &[2, 2], &[1])];
        assert_eq!(written(Form::Rows, &short).unwrap_err().status, 500);
    }
}
