//! Reads the facts about a model from the bytes of its file. The numbers of fields are those of
//! `onnx.proto`; all other fields are skipped, the weights among them.

use super::{Constant, Dimension, Graph, Node};
use crate::protobuf::{Content, DEEPEST, Malformed, child, fields, push_integers, text};

/// The data type code of 64-bit integers.
pub(super) const INT64: u64 = 7;

/// More texts are not kept, and longer ones neither.
const MOST_WORDS: usize = 64;
const LONGEST_WORD: usize = 64;

/// Longer data is weights, and is skipped.
const MOST_BYTES: usize = 1024;

/// The fields of an attribute that are read.
#[derive(Default)]
struct Attribute<'a> {
    name: String,
    integer: i64,
    tensor: Option<&'a [u8]>,
    graphs: Vec<&'a [u8]>,
    words: Vec<&'a [u8]>,
}

impl Graph {
    /// Reads the bytes of an ONNX model, except for its weights.
    pub(crate) fn read(model: &[u8]) -> Result<Self, Malformed> {
        let mut graph = Self::default();
        for field in fields(model) {
            let field = field?;
            match (field.number, field.content) {
                (7, Content::Bytes(main)) => {
                    graph.add_values(main)?;
                    graph.add(main, 0)?;
                }
                (25, Content::Bytes(function)) => graph.add_nodes(function, 7, 0)?,
                _ => {}
            }
        }
        graph.inputs.retain(|name, _| !graph.constants.contains_key(name));
        Ok(graph)
    }

    /// Adds the inputs and outputs of the main graph.
    fn add_values(&mut self, graph: &[u8]) -> Result<(), Malformed> {
        for field in fields(graph) {
            let field = field?;
            match (field.number, field.content) {
                (11, Content::Bytes(input)) => self.inputs.extend([value(input)?]),
                (12, Content::Bytes(output)) => self.outputs.extend([value(output)?]),
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds the operators and constants of a graph or subgraph.
    fn add(&mut self, graph: &[u8], depth: u32) -> Result<(), Malformed> {
        for field in fields(graph) {
            let field = field?;
            if let (5, Content::Bytes(initializer)) = (field.number, field.content) {
                self.add_constant(None, initializer)?;
            }
        }
        self.add_nodes(graph, 1, depth)
    }

    /// Adds the operators in the field `number` of a graph or function.
    fn add_nodes(&mut self, message: &[u8], number: u64, depth: u32) -> Result<(), Malformed> {
        if depth > DEEPEST {
            return Err(Malformed);
        }
        for field in fields(message) {
            let field = field?;
            if let (Content::Bytes(node), true) = (field.content, field.number == number) {
                self.add_node(node, depth)?;
            }
        }
        Ok(())
    }

    /// Adds a tensor, under another name than its own if one is given.
    fn add_constant(&mut self, name: Option<&str>, tensor: &[u8]) -> Result<(), Malformed> {
        let (own, constant, words) = constant(tensor)?;
        self.constants.insert(name.map_or(own, str::to_owned), constant);
        self.add_words(words);
        Ok(())
    }

    /// Keeps short texts.
    fn add_words<'a>(&mut self, words: impl IntoIterator<Item = &'a [u8]>) {
        let left = MOST_WORDS.saturating_sub(self.words.len());
        let is_short = |word: &&[u8]| (1..=LONGEST_WORD).contains(&word.len());
        let words = words.into_iter().filter(is_short).filter_map(|word| text(word).ok());
        self.words.extend(words.take(left));
    }

    fn add_node(&mut self, bytes: &[u8], depth: u32) -> Result<(), Malformed> {
        let mut node = Node::default();
        let mut attributes = Vec::new();
        for field in fields(bytes) {
            let field = field?;
            match (field.number, field.content) {
                (1, Content::Bytes(input)) => node.inputs.push(text(input)?),
                (2, Content::Bytes(output)) => node.outputs.push(text(output)?),
                (4, Content::Bytes(operator)) => node.operator = text(operator)?,
                (5, Content::Bytes(bytes)) => attributes.push(attribute(bytes)?),
                _ => {}
            }
        }
        for Attribute { name, integer, tensor, graphs, words } in attributes {
            self.add_words(words);
            if let (Some(value), "Constant", [output]) =
                (tensor, node.operator.as_str(), &node.outputs[..])
            {
                self.add_constant(Some(output), value)?;
            }
            for graph in graphs {
                self.add(graph, depth + 1)?;
            }
            node.integers.insert(name, integer);
        }
        self.nodes.push(node);
        Ok(())
    }
}

fn attribute(bytes: &[u8]) -> Result<Attribute<'_>, Malformed> {
    let mut attribute = Attribute::default();
    for field in fields(bytes) {
        let field = field?;
        match (field.number, field.content) {
            (1, Content::Bytes(name)) => attribute.name = text(name)?,
            (3, Content::Number(integer)) => attribute.integer = integer.cast_signed(),
            (5, Content::Bytes(tensor)) => attribute.tensor = Some(tensor),
            (6 | 11, Content::Bytes(graph)) => attribute.graphs.push(graph),
            (9, Content::Bytes(word)) if attribute.words.len() < MOST_WORDS => {
                attribute.words.push(word);
            }
            _ => {}
        }
    }
    Ok(attribute)
}

/// The name and the facts of a tensor, and its first texts.
fn constant(tensor: &[u8]) -> Result<(String, Constant, Vec<&[u8]>), Malformed> {
    let (mut name, mut dims, mut data_type) = (String::new(), Vec::new(), 0);
    let (mut integers, mut words) = (Vec::new(), Vec::new());
    for field in fields(tensor) {
        let field = field?;
        match (field.number, field.content) {
            (1, content) => push_integers(&mut dims, content)?,
            (2, Content::Number(number)) => data_type = number,
            (6, Content::Bytes(word)) if words.len() < MOST_WORDS => words.push(word),
            // Integers, in the field for 64-bit integers or as little-endian bytes.
            (7 | 9, Content::Bytes(bytes)) if bytes.len() > MOST_BYTES => {}
            (7, content) => push_integers(&mut integers, content)?,
            (8, Content::Bytes(bytes)) => name = text(bytes)?,
            (9, Content::Bytes(raw)) => {
                integers.extend(raw.as_chunks().0.iter().copied().map(i64::from_le_bytes));
            }
            _ => {}
        }
    }
    let is_whole = i64::try_from(integers.len()) == Ok(dims.iter().product());
    let integers = (data_type == INT64 && is_whole).then_some(integers);
    let dims = dims.iter().map(|dim| dim.unsigned_abs()).collect();
    Ok((name, Constant { dims, integers }, words))
}

/// The name and the dimensions of an input or output.
fn value(bytes: &[u8]) -> Result<(String, Vec<Dimension>), Malformed> {
    let name = child(bytes, 1)?.map_or(Ok(String::new()), text)?;
    let mut dimensions = Vec::new();
    let kind = child(bytes, 2)?.unwrap_or_default();
    let tensor = child(kind, 1)?.unwrap_or_default();
    let shape = child(tensor, 2)?.unwrap_or_default();
    for field in fields(shape) {
        let field = field?;
        if let (1, Content::Bytes(bytes)) = (field.number, field.content) {
            dimensions.push(dimension(bytes)?);
        }
    }
    Ok((name, dimensions))
}

fn dimension(bytes: &[u8]) -> Result<Dimension, Malformed> {
    let mut dimension = Dimension::Open;
    for field in fields(bytes) {
        let field = field?;
        match (field.number, field.content) {
            (1, Content::Number(size)) if !size.cast_signed().is_negative() => {
                dimension = Dimension::Size(size);
            }
            (2, Content::Bytes(symbol)) if !symbol.is_empty() => {
                dimension = Dimension::Symbol(text(symbol)?);
            }
            _ => {}
        }
    }
    Ok(dimension)
}
