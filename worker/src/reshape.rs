//! Tensors that clients send or get in another shape than the model's, with the same elements. Pure.

use batchfleet_broker::Tensor;

/// The tensors of a model that are reshaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reshapes {
    /// By input.
    pub(crate) inputs: Vec<Reshape>,
    /// By output.
    pub(crate) outputs: Vec<Reshape>,
}

/// The two shapes of a tensor, without the dimension of the rows. Both have as many open dimensions
/// (-1), which have the same sizes in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reshape {
    /// The tensor's name.
    pub(crate) name: String,
    /// The shape that clients see.
    pub(crate) public: Vec<i64>,
    /// The shape that the model sees.
    pub(crate) native: Vec<i64>,
    /// Whether a first dimension, which stays, counts the rows.
    pub(crate) rows: bool,
}

/// A tensor that does not have the shape that it is reshaped from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "tensor {name:?} of shape {shape:?} does not fit the reshape of config.pbtxt: {expected:?}"
)]
pub(crate) struct Misfit {
    name: String,
    shape: Vec<u64>,
    expected: Vec<i64>,
}

impl Reshapes {
    /// Gives inputs the model's shapes.
    pub(crate) fn to_model(&self, inputs: &mut [Tensor]) -> Result<(), Misfit> {
        apply(&self.inputs, inputs, |Reshape { public, native, .. }| (public, native))
    }

    /// Gives outputs the clients' shapes.
    pub(crate) fn to_client(&self, outputs: &mut [Tensor]) -> Result<(), Misfit> {
        apply(&self.outputs, outputs, |Reshape { public, native, .. }| (native, public))
    }
}

fn apply(
    reshapes: &[Reshape],
    tensors: &mut [Tensor],
    shapes: impl Fn(&Reshape) -> (&Vec<i64>, &Vec<i64>),
) -> Result<(), Misfit> {
    for reshape in reshapes {
        for tensor in tensors.iter_mut().filter(|tensor| tensor.name == reshape.name) {
            let (from, to) = shapes(reshape);
            tensor.shape =
                reshaped(&tensor.shape, from, to, reshape.rows).ok_or_else(|| Misfit {
                    name: tensor.name.clone(),
                    shape: tensor.shape.clone(),
                    expected: from.clone(),
                })?;
        }
    }
    Ok(())
}

/// The shape `to`, with the rows and the open dimensions of `shape`, which has the shape `from`.
fn reshaped(shape: &[u64], from: &[i64], to: &[i64], rows: bool) -> Option<Vec<u64>> {
    let (rows, of_row) = shape.split_at_checked(usize::from(rows))?;
    let fits = |(&from, &dim): (&i64, &u64)| from == -1 || u64::try_from(from) == Ok(dim);
    if of_row.len() != from.len() || !from.iter().zip(of_row).all(fits) {
        return None;
    }
    let mut open = from.iter().zip(of_row).filter(|(from, _)| **from == -1).map(|(_, &dim)| dim);
    let to = to.iter().map(|&dim| if dim == -1 { open.next() } else { u64::try_from(dim).ok() });
    rows.iter().copied().map(Some).chain(to).collect()
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::Datatype;
    use bytes::Bytes;

    use super::*;

    fn tensor(shape: &[u64]) -> Tensor {
        Tensor {
            name: "X".to_owned(),
            datatype: Datatype::Uint8,
            shape: shape.to_vec(),
            data: Bytes::new(),
        }
    }

    fn reshapes(public: &[i64], native: &[i64], rows: bool) -> Reshapes {
        let (public, native) = (public.to_vec(), native.to_vec());
        let reshape = Reshape { name: "X".to_owned(), public, native, rows };
        Reshapes { inputs: vec![reshape.clone()], outputs: vec![reshape] }
    }

    #[test]
    fn a_tensor_gets_the_models_shape_and_back() {
        for (public, native, rows, from, to) in [
            (&[6][..], &[2, 3][..], false, &[6][..], &[2, 3][..]),
            (&[6], &[2, 3], true, &[5, 6], &[5, 2, 3]),
            (&[1], &[], true, &[5, 1], &[5]),
            (&[1], &[], false, &[1], &[]),
            (&[-1, 4], &[-1, 2, 2], true, &[5, 7, 4], &[5, 7, 2, 2]),
            (&[2, -1, 3, -1], &[-1, 3, 2, -1], false, &[2, 8, 3, 9], &[8, 3, 2, 9]),
        ] {
            let reshapes = reshapes(public, native, rows);
            let mut tensors = [tensor(from)];
            reshapes.to_model(&mut tensors).unwrap();
            assert_eq!(tensors[0].shape, to);
            reshapes.to_client(&mut tensors).unwrap();
            assert_eq!(tensors[0].shape, from);
        }
    }

    #[test]
    fn other_tensors_keep_their_shape() {
        let mut other = [Tensor { name: "Y".to_owned(), ..tensor(&[7]) }];
        reshapes(&[6], &[2, 3], false).to_model(&mut other).unwrap();
        assert_eq!(other[0].shape, [7]);
    }

    #[test]
    fn an_output_of_another_shape_is_an_error() {
        let reshapes = reshapes(&[6], &[2, 3], true);
        for shape in [&[5, 3, 2][..], &[5, 6], &[], &[5, 2, 3, 1]] {
            let error = reshapes.to_client(&mut [tensor(shape)]).unwrap_err().to_string();
            assert!(error.contains("\"X\"") && error.contains("[2, 3]"), "{error}");
        }
    }
}
