//! What the constants of a model imply for its inputs: sizes of open dimensions, and the rows of the
//! tables that an input selects from.

use std::collections::{BTreeMap, BTreeSet};

use super::{Constant, Graph, Node};

/// Operators whose output has the shape of their first input.
const SAME_SHAPE: [&str; 23] = [
    "Abs",
    "Cast",
    "Clip",
    "Div",
    "Dropout",
    "Exp",
    "Identity",
    "LeakyRelu",
    "Log",
    "Neg",
    "Normalizer",
    "Pow",
    "Relu",
    "Scaler",
    "Sigmoid",
    "Sqrt",
    "Tanh",
    "Add",
    "Mul",
    "Sub",
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
];

/// Operators that move or copy elements of their first input.
const SAME_ELEMENTS: [&str; 13] = [
    "Cast",
    "Clip",
    "Concat",
    "Dropout",
    "Expand",
    "Flatten",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// Operators that pass on a table, possibly as other numbers.
const SAME_TABLE: [&str; 3] = ["Cast", "DequantizeLinear", "Identity"];

impl Graph {
    /// The rows of the smallest table that the integers of `input` select from; `None` if they
    /// select from none that the model holds.
    pub(crate) fn table_rows(&self, input: &str) -> Option<u64> {
        let indices = self.reached(input, &SAME_ELEMENTS);
        let is_index = |name: &String| indices.contains(name.as_str());
        let rows = |node: &Node| -> Vec<u64> {
            let table = |at: usize, axis: usize| {
                let name = node.inputs.get(at)?;
                self.table(name)?.dims.get(axis).copied()
            };
            match node.operator.as_str() {
                "Gather" | "GatherBlockQuantized" if node.inputs.get(1).is_some_and(is_index) => {
                    let axis = node.integers.get("axis").or(node.integers.get("gather_axis"));
                    let axis = axis.map_or(Some(0), |&axis| usize::try_from(axis).ok());
                    axis.and_then(|axis| table(0, axis)).into_iter().collect()
                }
                "EmbedLayerNormalization" | "QEmbedLayerNormalization" => {
                    let of = [(0, 2), (1, 4)];
                    let of = of
                        .iter()
                        .filter(|(index, _)| node.inputs.get(*index).is_some_and(is_index));
                    of.filter_map(|&(_, table_at)| table(table_at, 0)).collect()
                }
                "OneHot" if node.inputs.first().is_some_and(is_index) => {
                    let depth = node.inputs.get(1).and_then(|name| self.constants.get(name));
                    let depth = depth.and_then(|depth| depth.integers.as_ref()?.first().copied());
                    depth.and_then(|depth| u64::try_from(depth).ok()).into_iter().collect()
                }
                _ => Vec::new(),
            }
        };
        self.nodes.iter().flat_map(rows).filter(|&rows| rows > 0).min()
    }

    /// The sizes of dimensions of `input`, which has `rank` dimensions, that the model's constants
    /// imply.
    pub(crate) fn implied(&self, input: &str, rank: usize) -> BTreeMap<usize, u64> {
        let same = self.reached(input, &SAME_SHAPE);
        let mut implied = BTreeMap::new();
        for node in &self.nodes {
            let takes =
                |at: usize| node.inputs.get(at).is_some_and(|name| same.contains(name.as_str()));
            let dims = |at: usize| {
                node.inputs
                    .get(at)
                    .and_then(|name| self.table(name))
                    .map(|constant| &constant.dims[..])
            };
            let last = rank.checked_sub(1);
            let found = match node.operator.as_str() {
                "MatMul" | "MatMulInteger" | "DynamicQuantizeMatMul" if takes(0) => {
                    dims(1).and_then(|dims| Some((last?, *dims.iter().rev().nth(1)?)))
                }
                "Gemm" | "FusedGemm" if takes(0) => {
                    let is_transposed =
                        node.integers.get("transB").is_some_and(|&trans| trans != 0);
                    let axis = usize::from(is_transposed);
                    dims(1).and_then(|dims| Some((last?, *dims.get(axis)?)))
                }
                "Conv" | "ConvInteger" | "FusedConv" if takes(0) => {
                    let groups =
                        node.integers.get("group").map_or(1, |&group| group.unsigned_abs());
                    dims(1).and_then(|dims| Some((1, dims.get(1)? * groups.max(1))))
                }
                "ConvTranspose" | "BatchNormalization" if takes(0) => {
                    dims(1).and_then(|dims| Some((1, *dims.first()?)))
                }
                "LSTM" | "GRU" | "RNN" if takes(0) => {
                    dims(1).and_then(|dims| Some((2, *dims.get(2)?)))
                }
                "LayerNormalization" | "Add" | "Sub" | "Mul" | "Div" if takes(0) => {
                    let size = dims(1).and_then(|dims| dims.last().copied());
                    size.filter(|&size| size > 1).and_then(|size| Some((last?, size)))
                }
                "Reshape" if takes(0) && rank == 2 => self.row_elements(node).map(|size| (1, size)),
                _ => None,
            };
            if let Some((axis, size)) = found.filter(|&(axis, size)| axis < rank && size > 0) {
                implied.entry(axis).or_insert(size);
            }
        }
        implied
    }

    /// The elements of one row, from the constant shape of a `Reshape`.
    fn row_elements(&self, node: &Node) -> Option<u64> {
        let shape = self.constants.get(node.inputs.get(1)?)?.integers.as_ref()?;
        let of_row = shape.get(1..)?;
        let elements = |dim: &i64| u64::try_from(*dim).ok().filter(|&dim| dim > 0);
        of_row.iter().map(elements).try_fold(1_u64, |product, dim| product.checked_mul(dim?))
    }

    /// The constant behind `name`.
    fn table(&self, name: &str) -> Option<&Constant> {
        let mut name = name;
        // No chain is longer than the number of operators.
        for _ in 0..=self.nodes.len() {
            if let Some(constant) = self.constants.get(name) {
                return Some(constant);
            }
            let source =
                self.nodes.iter().find(|node| node.outputs.iter().any(|out| out == name))?;
            if !SAME_TABLE.contains(&source.operator.as_str()) {
                return None;
            }
            name = source.inputs.first()?;
        }
        None
    }

    /// The names of `input` and of what the `operators` make of it.
    fn reached<'a>(&'a self, input: &'a str, operators: &[&str]) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::from([input]);
        // Nodes are in the order in which they run.
        for node in &self.nodes {
            let is_reached = node.inputs.iter().any(|name| reached.contains(name.as_str()));
            if is_reached && operators.contains(&node.operator.as_str()) {
                reached.extend(node.outputs.iter().map(String::as_str));
            }
        }
        reached
    }
}
