//! Shapes: read, multiplied without overflow, and checked against the model's.

use batchfleet_broker::{Datatype, ModelSpec, Tensor, TensorSpec};

use crate::{
    json::{Kind, Reader},
    problem::{Problem, quote},
};

/// Maximum number of dimensions of a shape, more than any model has.
const MAX_RANK: usize = 32;

/// Reads a JSON array of dimensions.
pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Vec<u64>, Problem> {
    if reader.kind()? != Kind::Array {
        return Err(bad("shape should be an array of dimensions"));
    }
    let mut shape = Vec::new();
    reader.array(|reader| {
        let Some(number) = reader.number() else {
            reader.skip()?;
            return Err(bad("a dimension should be a whole number"));
        };
        let dimension = number.to_integer::<i64>().and_then(|size| u64::try_from(size).ok());
        shape.push(dimension.ok_or_else(|| {
            bad(format!("dimension {} should be a whole number", quote(number.text)))
        })?);
        if shape.len() > MAX_RANK {
            return Err(bad(format!("a shape may have at most {MAX_RANK} dimensions")));
        }
        Ok(())
    })?;
    Ok(shape)
}

/// The number of elements in a tensor of this shape.
pub(crate) fn elements(shape: &[u64]) -> Result<usize, Problem> {
    // A dimension of 0 makes the product 0, even if the other dimensions would overflow.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size))
        .and_then(|product| usize::try_from(product).ok())
        .ok_or_else(|| bad(format!("shape {shape:?} has more elements than can be counted")))
}

/// The size of a tensor in bytes; `None` for BYTES, whose elements differ in size.
pub(crate) fn bytes(shape: &[u64], datatype: Datatype) -> Result<Option<usize>, Problem> {
    let elements = elements(shape)?;
    let Some(size) = datatype.size() else { return Ok(None) };
    let bytes = elements
        .checked_mul(size)
        .ok_or_else(|| bad(format!("shape {shape:?} has more bytes than can be counted")))?;
    Ok(Some(bytes))
}

/// Checks the shape of one input against the model's: the same rank, and the same size in every
/// dimension that the model fixes. [`rows`] checks the batch dimension.
pub(crate) fn fit(shape: &[u64], spec: &TensorSpec, batches: bool) -> Result<(), Problem> {
    let fits = |(at, (size, wanted)): (usize, (&u64, &i64))| {
        batches && at == 0 || u64::try_from(*wanted).map_or(true, |wanted| wanted == *size)
    };
    let same_rank = shape.len() == spec.shape.len();
    if !same_rank || !shape.iter().zip(&spec.shape).enumerate().all(fits) {
        return Err(bad(format!("shape is {shape:?}, but the model expects {:?}", spec.shape)));
    }
    Ok(())
}

/// The number of rows in a request with these inputs: the first dimension, which must be equal in
/// all inputs, or 1 for a model that does not batch.
pub(crate) fn rows(inputs: &[Tensor], model: &ModelSpec) -> Result<u32, Problem> {
    let Some(most) = model.max_batch else { return Ok(1) };
    let mut sizes = inputs.iter().filter_map(|input| input.shape.first());
    let rows = sizes.next().copied().unwrap_or(1);
    if sizes.any(|other| *other != rows) {
        return Err(bad("the inputs differ in their batch dimension, the first of their shapes"));
    }
    if rows == 0 {
        return Err(bad("the batch dimension, the first of the shape, is 0"));
    }
    u32::try_from(rows).ok().filter(|rows| *rows <= most.get()).ok_or_else(|| {
        Problem::bad(
            "batch_too_large",
            format!("a request to this model may have at most {most} rows, this one has {rows}"),
        )
    })
}

/// The shape of a tensor of `bytes` bytes that is sent without a shape: a batch of one row. If the
/// model leaves one dimension open, the number of bytes determines its size.
pub(crate) fn resolve(spec: &TensorSpec, batches: bool, bytes: usize) -> Result<Vec<u64>, Problem> {
    let mut shape: Vec<Option<u64>> =
        spec.shape.iter().map(|size| u64::try_from(*size).ok()).collect();
    if let (true, Some(batch)) = (batches, shape.first_mut()) {
        *batch = Some(1);
    }
    let known: Vec<u64> = shape.iter().copied().flatten().collect();
    if shape.len() - known.len() > 1 {
        return Err(bad("a body without JSON needs a model with at most one open dimension"));
    }
    // For BYTES the whole body is one element; elements of other datatypes have a fixed size.
    let count = spec.datatype.size().map_or(1, |size| bytes / size);
    let open = count.checked_div(elements(&known)?).unwrap_or(0) as u64;
    Ok(shape.into_iter().map(|size| size.unwrap_or(open)).collect())
}

fn bad(message: impl Into<String>) -> Problem {
    Problem::bad("bad_shape", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: &[i64]) -> TensorSpec {
        TensorSpec::new("x", Datatype::Fp32, shape)
    }

    #[test]
    fn products_that_overflow_are_refused_unless_a_dimension_is_0() {
        assert!(elements(&[1 << 32, 1 << 32, 2]).is_err());
        assert!(bytes(&[1 << 62], Datatype::Fp64).is_err());
        assert_eq!(elements(&[1 << 40, 0, 1 << 40]).unwrap(), 0);
        assert_eq!(elements(&[]).unwrap(), 1);
    }

    #[test]
    fn only_open_dimensions_may_differ_from_the_models() {
        for (shape, fits) in [
            (&[7u64, 3, 5][..], true),
            (&[7, 0, 5], true),
            (&[7, 3, 4], false),
            (&[7, 3], false),
            (&[], false),
        ] {
            assert_eq!(fit(shape, &spec(&[-1, -1, 5]), true).is_ok(), fits, "{shape:?}");
        }
    }

    #[test]
    fn the_length_of_a_raw_body_gives_the_one_open_dimension() {
        assert_eq!(resolve(&spec(&[-1, -1, 3]), true, 24).unwrap(), [1, 2, 3]);
        assert_eq!(resolve(&spec(&[-1, 3]), true, 12).unwrap(), [1, 3]);
        assert_eq!(resolve(&spec(&[-1, 0]), false, 12).unwrap(), [0, 0]);
        assert!(resolve(&spec(&[-1, -1, -1]), true, 24).is_err());
    }
}
