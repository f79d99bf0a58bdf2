//! Checks whether a job fits its model. Gateways make the same checks, but the worker does not rely
//! on them, because one bad input would fail a whole batch.

use batchfleet_broker::{Job, ModelSpec, Tensor, TensorSpec};

use crate::tensors;

/// Checks names, types, shapes and sizes. The error is a message for the caller.
pub(crate) fn check(spec: &ModelSpec, job: &Job) -> Result<(), String> {
    let mut rows_of_inputs = Vec::with_capacity(job.inputs.len());
    let mut given = job.inputs.iter().peekable();
    for expected in &spec.inputs {
        let Some(tensor) = given.next_if(|tensor| tensor.name == expected.name) else {
            if expected.optional {
                continue;
            }
            return Err(format!(
                "input {:?} is missing, or not in the model's order",
                expected.name
            ));
        };
        check_tensor(tensor, expected)
            .map_err(|problem| format!("input {:?}: {problem}", expected.name))?;
        let rows = expected.row_dimension().and_then(|axis| tensor.shape.get(axis));
        rows_of_inputs.extend(rows.map(|&rows| (tensor.name.as_str(), rows)));
    }
    if let Some(unknown) = given.next() {
        return Err(format!("no input {:?}, or not in the model's order", unknown.name));
    }
    check_rows(spec, job.rows, &rows_of_inputs)?;
    match job.outputs.iter().find(|name| !spec.outputs.iter().any(|output| output.name == **name)) {
        Some(unknown) => Err(format!("no output {unknown:?}")),
        None => Ok(()),
    }
}

/// Checks that all inputs with rows hold the number of rows of the job, and that this number is
/// allowed.
fn check_rows(spec: &ModelSpec, rows: u32, of_inputs: &[(&str, u64)]) -> Result<(), String> {
    let Some(most) = spec.max_batch else {
        return if rows == 1 { Ok(()) } else { Err("this model does not batch".to_owned()) };
    };
    if !(1..=most.get()).contains(&rows) {
        return Err(format!("expected 1 to {most} rows, got {rows}"));
    }
    match of_inputs.iter().find(|(_, of_input)| *of_input != u64::from(rows)) {
        Some((name, other)) => {
            Err(format!("input {name:?} has {other} rows, but the request has {rows}"))
        }
        None => Ok(()),
    }
}

fn check_tensor(tensor: &Tensor, expected: &TensorSpec) -> Result<(), String> {
    if tensor.datatype != expected.datatype {
        return Err(format!("expected {}, got {}", expected.datatype, tensor.datatype));
    }
    let fits = |(&dim, &expected): (&u64, &i64)| expected < 0 || i64::try_from(dim) == Ok(expected);
    if tensor.shape.len() != expected.shape.len()
        || !tensor.shape.iter().zip(&expected.shape).all(fits)
    {
        return Err(format!("expected shape {:?}, got {:?}", expected.shape, tensor.shape));
    }
    let elements = tensor.shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
    let elements = elements.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    check_size(tensor, elements)
}

/// Checks that the data holds exactly `elements` elements.
fn check_size(tensor: &Tensor, elements: usize) -> Result<(), String> {
    let found = match tensor.datatype.size() {
        Some(size) if elements.checked_mul(size) == Some(tensor.data.len()) => return Ok(()),
        Some(_) => format!("{} bytes", tensor.data.len()),
        None => {
            let mut count = 0;
            for string in tensors::strings(&tensor.data) {
                string.map_err(|_| "a string's length overruns the data".to_owned())?;
                count += 1;
            }
            if count == elements {
                return Ok(());
            }
            format!("{count} strings")
        }
    };
    Err(format!("shape {:?} of {} does not hold {found}", tensor.shape, tensor.datatype))
}
