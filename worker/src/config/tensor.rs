//! The inputs and outputs of a config.

use std::collections::BTreeMap;

use batchfleet_broker::Datatype;

use super::{
    message::{DataType, Format, Message, Reshape},
    mistake::Mistake,
};

/// The prefix of the parameters that declare the dimension of a tensor that counts rows.
const BATCH_AXIS: &str = "batch_axis:";

/// An input or output as a config describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorConfig {
    /// The name in the model.
    pub(crate) name: String,
    /// The element type; `None` leaves it to the model.
    pub(crate) datatype: Option<Datatype>,
    /// The dimensions that clients see, without the batch dimension; -1 for any size. Empty leaves
    /// them to the model.
    pub(crate) dims: Vec<i64>,
    /// The dimensions that the model gets, without the batch dimension, if they differ from `dims`.
    pub(crate) reshape: Option<Vec<i64>>,
    /// Whether a request may leave out this input.
    pub(crate) optional: bool,
    /// The file with the labels of an output, relative to the model's folder.
    pub(crate) label_file: Option<String>,
}

/// Which dimension of a tensor counts the rows of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowAxis {
    /// This dimension of the tensor, counted from 0.
    Axis(u32),
    /// None: the tensor has one value for the whole batch.
    None,
}

/// A config's inputs.
pub(super) fn inputs(message: &Message) -> Result<Vec<TensorConfig>, Mistake> {
    let mut tensors = Vec::new();
    for (index, input) in message.input.iter().enumerate() {
        let mistake = |problem: String| Mistake::at("input", index, problem);
        let tensor = Described {
            kind: "input",
            name: &input.name,
            data_type: input.data_type,
            dims: &input.dims,
            reshape: input.reshape.as_ref(),
        };
        let tensor = tensor.check(&tensors).map_err(mistake)?;
        if input.format != Format::None && tensor.dims.len() != 3 {
            return Err(mistake(format!(
                "input {:?} has a format of images, but {} dims instead of 3",
                input.name,
                tensor.dims.len()
            )));
        }
        tensors.push(TensorConfig { optional: input.optional, ..tensor });
    }
    Ok(tensors)
}

/// A config's outputs.
pub(super) fn outputs(message: &Message) -> Result<Vec<TensorConfig>, Mistake> {
    let mut tensors = Vec::new();
    for (index, output) in message.output.iter().enumerate() {
        let tensor = Described {
            kind: "output",
            name: &output.name,
            data_type: output.data_type,
            dims: &output.dims,
            reshape: output.reshape.as_ref(),
        };
        let tensor =
            tensor.check(&tensors).map_err(|problem| Mistake::at("output", index, problem))?;
        let file = &output.label_filename;
        let label_file = (!file.is_empty()).then(|| file.clone());
        tensors.push(TensorConfig { label_file, ..tensor });
    }
    Ok(tensors)
}

/// The fields that inputs and outputs share.
struct Described<'a> {
    kind: &'static str,
    name: &'a str,
    data_type: DataType,
    dims: &'a [i64],
    reshape: Option<&'a Reshape>,
}

impl Described<'_> {
    /// Checks the tensor on its own. `others` come before it.
    fn check(self, others: &[TensorConfig]) -> Result<TensorConfig, String> {
        let Self { kind, name, data_type, dims, reshape } = self;
        if name.is_empty() {
            return Err(format!("{kind} has no name"));
        }
        if others.iter().any(|other| other.name == name) {
            return Err(format!("{kind} {name:?} is described twice"));
        }
        check_dims(dims).map_err(|problem| format!("{kind} {name:?}: dims {problem}"))?;
        if let Some(reshape) = reshape {
            let problem = |problem| format!("{kind} {name:?}: reshape {problem}");
            check_dims(&reshape.shape).map_err(problem)?;
            check_reshape(dims, &reshape.shape).map_err(problem)?;
        }
        Ok(TensorConfig {
            name: name.to_owned(),
            datatype: data_type.datatype(),
            dims: dims.to_vec(),
            reshape: reshape.map(|reshape| reshape.shape.clone()).filter(|shape| shape != dims),
            optional: false,
            label_file: None,
        })
    }
}

fn check_dims(dims: &[i64]) -> Result<(), String> {
    match dims.iter().find(|&&dim| dim < 1 && dim != -1) {
        Some(dim) => Err(format!("contain {dim}: give 1 or more, or -1 for any size")),
        None => Ok(()),
    }
}

/// Checks that `dims` and `shape` have as many elements, whatever the sizes of open dimensions are:
/// both have as many open dimensions, with equal products before, between and after them.
fn check_reshape(dims: &[i64], shape: &[i64]) -> Result<(), String> {
    let products = |dims: &[i64]| -> Vec<Option<i64>> {
        let product = |part: &[i64]| part.iter().try_fold(1_i64, |all, &dim| all.checked_mul(dim));
        dims.split(|&dim| dim == -1).map(product).collect()
    };
    let (dims_products, shape_products) = (products(dims), products(shape));
    if dims_products == shape_products && !dims_products.contains(&None) {
        return Ok(());
    }
    Err(format!("{shape:?} does not always have as many elements as dims {dims:?}"))
}

/// The dimensions that count rows, from the parameters `batch_axis:NAME`, by the tensor's name.
pub(super) fn row_axes(
    parameters: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, RowAxis>, Mistake> {
    let axis = |(key, text): (&String, &String)| {
        let name = key.strip_prefix(BATCH_AXIS)?;
        let axis = match text.as_str() {
            "none" => Ok(RowAxis::None),
            axis => axis.parse().map(RowAxis::Axis),
        };
        let mistake = |_| {
            let problem = format!(
                "parameter {key:?} is {text:?}: give the number of a dimension, counted from 0, or \
                 none"
            );
            Mistake::new("parameters", problem)
        };
        Some(axis.map(|axis| (name.to_owned(), axis)).map_err(mistake))
    };
    parameters.iter().filter_map(axis).collect()
}

impl DataType {
    /// The protocol's datatype; `None` for `TYPE_INVALID`.
    pub(crate) const fn datatype(self) -> Option<Datatype> {
        Some(match self {
            Self::Invalid => return None,
            Self::Bool => Datatype::Bool,
            Self::Uint8 => Datatype::Uint8,
            Self::Uint16 => Datatype::Uint16,
            Self::Uint32 => Datatype::Uint32,
            Self::Uint64 => Datatype::Uint64,
            Self::Int8 => Datatype::Int8,
            Self::Int16 => Datatype::Int16,
            Self::Int32 => Datatype::Int32,
            Self::Int64 => Datatype::Int64,
            Self::Fp16 => Datatype::Fp16,
            Self::Fp32 => Datatype::Fp32,
            Self::Fp64 => Datatype::Fp64,
            Self::String => Datatype::Bytes,
            Self::Bf16 => Datatype::Bf16,
        })
    }
}

impl From<Datatype> for DataType {
    fn from(datatype: Datatype) -> Self {
        match datatype {
            Datatype::Bool => Self::Bool,
            Datatype::Uint8 => Self::Uint8,
            Datatype::Uint16 => Self::Uint16,
            Datatype::Uint32 => Self::Uint32,
            Datatype::Uint64 => Self::Uint64,
            Datatype::Int8 => Self::Int8,
            Datatype::Int16 => Self::Int16,
            Datatype::Int32 => Self::Int32,
            Datatype::Int64 => Self::Int64,
            Datatype::Fp16 => Self::Fp16,
            Datatype::Fp32 => Self::Fp32,
            Datatype::Fp64 => Self::Fp64,
            Datatype::Bf16 => Self::Bf16,
            Datatype::Bytes => Self::String,
        }
    }
}
