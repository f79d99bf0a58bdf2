//! Facts about a model, read from its ONNX file: symbols of dimensions, operators, and the names and
//! shapes of constants. The weights are skipped.

mod operators;
mod read;
mod trace;

use std::collections::{BTreeMap, BTreeSet};

/// The facts about a model.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    inputs: BTreeMap<String, Vec<Dimension>>,
    outputs: BTreeMap<String, Vec<Dimension>>,
    nodes: Vec<Node>,
    words: Vec<String>,
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
#[derive(Debug, Default)]
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
    /// Texts in the model's file, such as those that it tells apart; the first ones if they are many.
    pub(crate) fn words(&self) -> &[String] {
        &self.words
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

#[cfg(test)]
mod tests;
