//! Checks whether a job fits its model. Gateways make the same checks, but the worker does not rely
//! on them, because one bad input would fail a whole batch.

use batchfleet_broker::{Job, ModelSpec, Tensor, TensorSpec};

use crate::{layout::Layout, tensors};

/// Checks names, types, shapes and sizes. The error is a message for the caller.
pub(crate) fn check(spec: &ModelSpec, job: &Job) -> Result<(), String> {
    if job.inputs.len() != spec.inputs.len() {
        return Err(format!("expected {} inputs, got {}", spec.inputs.len(), job.inputs.len()));
    }
    for (tensor, expected) in job.inputs.iter().zip(&spec.inputs) {
        check_tensor(tensor, expected)
            .map_err(|problem| format!("input {:?}: {problem}", expected.name))?;
    }
    check_rows(spec, job)?;
    match job.outputs.iter().find(|name| !spec.outputs.iter().any(|output| output.name == **name)) {
        Some(unknown) => Err(format!("no output {unknown:?}")),
        None => Ok(()),
    }
}

/// Checks that all inputs have the job's number of rows, and that the number is allowed.
fn check_rows(spec: &ModelSpec, job: &Job) -> Result<(), String> {
    let Some(most) = spec.max_batch else {
        return if job.rows == 1 { Ok(()) } else { Err("this model does not batch".to_owned()) };
    };
    if !(1..=most.get()).contains(&job.rows) {
        return Err(format!("expected 1 to {most} rows, got {}", job.rows));
    }
    let layout = Layout::of(spec.max_batch);
    if job.inputs.iter().all(|tensor| layout.holds(tensor, job.rows)) {
        Ok(())
    } else {
        Err("inputs differ in their first dimension, the rows".to_owned())
    }
}

fn check_tensor(tensor: &Tensor, expected: &TensorSpec) -> Result<(), String> {
    if tensor.name != expected.name {
        return Err(format!("got {:?} in its place", tensor.name));
    }
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
