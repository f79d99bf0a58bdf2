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
        check_rank(&shape)
    })?;
    Ok(shape)
}

/// Refuses a shape with too many dimensions.
pub(crate) fn check_rank(shape: &[u64]) -> Result<(), Problem> {
    if shape.len() > MAX_RANK {
        return Err(bad(format!("a shape may have at most {MAX_RANK} dimensions")));
    }
    Ok(())
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
/// dimension that the model fixes. [`rows`] checks the dimension that counts rows.
pub(crate) fn fit(shape: &[u64], spec: &TensorSpec, batches: bool) -> Result<(), Problem> {
    let rows = spec.row_dimension().filter(|_| batches);
    let fits = |(at, (size, wanted)): (usize, (&u64, &i64))| {
        rows == Some(at) || u64::try_from(*wanted).map_or(true, |wanted| wanted == *size)
    };
    let same_rank = shape.len() == spec.shape.len();
    if !same_rank || !shape.iter().zip(&spec.shape).enumerate().all(fits) {
        return Err(bad(format!("shape is {shape:?}, but the model expects {:?}", spec.shape)));
    }
    Ok(())
}

/// The number of rows in a request with these inputs, which are in the model's order: the size of
/// the dimension that counts rows, which must be equal in all inputs that have one; 1 for a model
/// that does not batch.
pub(crate) fn rows(inputs: &[Tensor], model: &ModelSpec) -> Result<u32, Problem> {
    let Some(most) = model.max_batch else { return Ok(1) };
    let mut specs = model.inputs.iter();
    // A request may leave out optional inputs.
    let mut sizes = inputs.iter().filter_map(|input| {
        let axis = specs.find(|spec| spec.name == input.name)?.row_dimension()?;
        Some((input, axis, *input.shape.get(axis)?))
    });
    let Some((first, axis, rows)) = sizes.next() else { return Ok(1) };
    if let Some((other, _, different)) = sizes.find(|(_, _, size)| *size != rows) {
        let (first, other) = (quote(&first.name), quote(&other.name));
        return Err(bad(format!(
            "the inputs differ in their batch dimension: {first} has {rows} rows, {other} has \
             {different}"
        )));
    }
    if rows == 0 {
        let name = quote(&first.name);
        return Err(bad(format!("the batch dimension of {name}, dimension {axis}, is 0")));
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
    if let Some(axis) = spec.row_dimension().filter(|_| batches) {
        shape[axis] = Some(1);
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

    /// A model of a signal [-1, 4], a state [2, -1, 3] and a rate without rows.
    fn recurrent() -> ModelSpec {
        let axis = |mut spec: TensorSpec, axis| {
            spec.row_axis = axis;
            spec
        };
        ModelSpec {
            queue: batchfleet_broker::QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: std::num::NonZeroU32::new(8),
            inputs: vec![
                TensorSpec::new("signal", Datatype::Fp32, [-1, 4]),
                axis(TensorSpec::new("state", Datatype::Fp32, [2, -1, 3]), Some(1)),
                axis(TensorSpec::new("window", Datatype::Fp32, [-1]), None),
                TensorSpec::new("rate", Datatype::Int64, []),
            ],
            outputs: Vec::new(),
        }
    }

    #[test]
    fn each_input_counts_its_rows_along_its_own_dimension() {
        let model = recurrent();
        let inputs = |shapes: &[(&str, &[u64])]| -> Vec<Tensor> {
            let tensor = |&(name, shape): &(&str, &[u64])| Tensor {
                name: name.to_owned(),
                datatype: Datatype::Fp32,
                shape: shape.to_vec(),
                data: bytes::Bytes::new(),
            };
            shapes.iter().map(tensor).collect()
        };
        let found = |shapes: &[(&str, &[u64])]| rows(&inputs(shapes), &model);
        let (signal, state) = (("signal", &[3, 4][..]), ("state", &[2, 3, 3][..]));
        assert_eq!(found(&[signal, state, ("window", &[9]), ("rate", &[])]).unwrap(), 3);
        assert_eq!(found(&[state, ("rate", &[])]).unwrap(), 3, "an input may be left out");
        assert_eq!(found(&[("window", &[9])]).unwrap(), 1, "only inputs with rows count");
        let differ = found(&[signal, ("state", &[2, 1, 3])]).unwrap_err().to_string();
        assert!(differ.contains("\"signal\" has 3 rows, \"state\" has 1"), "{differ}");
        let none = found(&[("state", &[2, 0, 3])]).unwrap_err().to_string();
        assert!(none.contains("\"state\", dimension 1, is 0"), "{none}");
        assert!(found(&[("state", &[2, 9, 3])]).is_err());
    }

    #[test]
    fn the_dimension_that_counts_rows_has_any_size_and_only_this_one() {
        let model = recurrent();
        let fits = |at: usize, shape: &[u64]| fit(shape, &model.inputs[at], true).is_ok();
        assert!(fits(1, &[2, 7, 3]) && !fits(1, &[1, 7, 3]) && !fits(1, &[2, 7]));
        assert!(fits(3, &[]) && !fits(3, &[1]));
        // The file may give 1 for the rows of an input that is declared to count them.
        let mut spec = TensorSpec::new("x", Datatype::Fp32, [2, 1, 3]);
        spec.row_axis = Some(1);
        assert!(fit(&[2, 5, 3], &spec, true).is_ok() && fit(&[2, 5, 3], &spec, false).is_err());
    }

    #[test]
    fn the_length_of_a_raw_body_gives_the_one_open_dimension() {
        assert_eq!(resolve(&spec(&[-1, -1, 3]), true, 24).unwrap(), [1, 2, 3]);
        assert_eq!(resolve(&spec(&[-1, 3]), true, 12).unwrap(), [1, 3]);
        assert_eq!(resolve(&spec(&[-1, 0]), false, 12).unwrap(), [0, 0]);
        assert!(resolve(&spec(&[-1, -1, -1]), true, 24).is_err());
    }
}
