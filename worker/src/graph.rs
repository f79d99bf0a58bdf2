//! Facts about a model, read from its ONNX file: symbols of dimensions, operators, and the names and
//! shapes of constants. The weights are skipped.

mod operators;
mod proto;
mod trace;

use std::collections::{BTreeMap, BTreeSet};

use prost::{DecodeError, Message as _};

use self::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

/// The facts about a model.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    inputs: BTreeMap<String, Vec<Dimension>>,
    outputs: BTreeMap<String, Vec<Dimension>>,
    nodes: Vec<Node>,
    constants: BTreeMap<String, Constant>,
}

/// One dimension of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dimension {
    /// A fixed size.
    Size(u64),
    /// A size of which only the name is known.
    Symbol(String),
    /// Any size.
    Open,
}

/// An operator of the graph, of one of its subgraphs, or of one of the model's functions.
#[derive(Debug)]
struct Node {
    operator: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// The attributes that are one integer; 0 for attributes of other types.
    integers: BTreeMap<String, i64>,
}

/// A tensor that is part of the model.
#[derive(Clone, Debug)]
struct Constant {
    dims: Vec<u64>,
    /// The elements of a small tensor of 64-bit integers.
    integers: Option<Vec<i64>>,
}

impl Graph {
    /// Reads the bytes of an ONNX model, except for its weights.
    pub(crate) fn read(model: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self::of(ModelProto::decode(model)?))
    }

    fn of(model: ModelProto) -> Self {
        let mut graph = Self::default();
        let main = model.graph.unwrap_or_default();
        graph.inputs = main.input.iter().map(dimensions).collect();
        graph.outputs = main.output.iter().map(dimensions).collect();
        graph.add(main);
        let functions = model.functions.into_iter().flat_map(|function| function.node);
        functions.for_each(|node| graph.add_node(node));
        graph.inputs.retain(|name, _| !graph.constants.contains_key(name));
        graph
    }

    /// Adds the parts of a graph or subgraph.
    fn add(&mut self, graph: GraphProto) {
        graph.initializer.into_iter().for_each(|tensor| self.add_constant(tensor));
        graph.node.into_iter().for_each(|node| self.add_node(node));
    }

    fn add_node(&mut self, node: NodeProto) {
        let NodeProto { input, output, op_type, attribute } = node;
        let mut integers = BTreeMap::new();
        for attribute in attribute {
            let AttributeProto { name, i, t, g, graphs } = attribute;
            if let (Some(value), "Constant", [output]) = (t, op_type.as_str(), &output[..]) {
                self.add_constant(TensorProto { name: output.clone(), ..value });
            }
            g.into_iter().chain(graphs).for_each(|graph| self.add(graph));
            integers.insert(name, i);
        }
        let node = Node { operator: op_type, inputs: input, outputs: output, integers };
        self.nodes.push(node);
    }

    fn add_constant(&mut self, tensor: TensorProto) {
        let integers = tensor.integers();
        let dims = tensor.dims.iter().map(|&dim| dim.unsigned_abs()).collect();
        self.constants.insert(tensor.name, Constant { dims, integers });
    }

    /// The dimensions of an input; `None` for an unknown name. Empty for a scalar and for an unknown
    /// rank.
    pub(crate) fn input(&self, name: &str) -> Option<&[Dimension]> {
        self.inputs.get(name).map(Vec::as_slice)
    }

    /// The dimensions of an output; `None` for an unknown name.
    pub(crate) fn output(&self, name: &str) -> Option<&[Dimension]> {
        self.outputs.get(name).map(Vec::as_slice)
    }

    /// The different names that people gave to the first dimensions of the inputs. Names that
    /// exporters make up are left out: they differ even where the dimensions are the same.
    pub(crate) fn row_symbols(&self) -> BTreeSet<&str> {
        self.inputs
            .values()
            .filter_map(|dims| match dims.first()? {
                Dimension::Symbol(symbol) if !is_made_up(symbol) => Some(symbol.as_str()),
                _ => None,
            })
            .collect()
    }
}

/// Whether an exporter made up the name of a dimension: numbered names (`unk__12`, `s0`,
/// `DynamicDimension.1`, `x_dynamic_axes_1`), and names without letters.
fn is_made_up(symbol: &str) -> bool {
    symbol.ends_with(|last: char| last.is_ascii_digit()) || !symbol.contains(char::is_alphabetic)
}

fn dimensions(value: &ValueInfoProto) -> (String, Vec<Dimension>) {
    let tensor = value.kind.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let shape = tensor.and_then(|tensor| tensor.shape.clone()).unwrap_or_default();
    let dimension = |dim: proto::DimensionProto| match (dim.dim_value, dim.dim_param) {
        (Some(size), _) if size >= 0 => Dimension::Size(size.unsigned_abs()),
        (_, Some(symbol)) if !symbol.is_empty() => Dimension::Symbol(symbol),
        _ => Dimension::Open,
    };
    (value.name.clone(), shape.dim.into_iter().map(dimension).collect())
}

#[cfg(test)]
mod tests;
