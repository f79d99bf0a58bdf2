//! Encodes small ONNX models, which need only a few fields of a few protobuf messages.

/// Element types, as in `onnx.TensorProto.DataType`.
pub(crate) const FLOAT: u64 = 1;
pub(crate) const INTEGER: u64 = 7;

/// A tensor type of a graph's input or output: element type (numbered as in
/// `onnx.TensorProto.DataType`) and dimensions, `None` for an open dimension.
pub(crate) struct Type<'a>(pub(crate) u64, pub(crate) &'a [Option<u64>]);

/// A graph under construction.
#[derive(Default)]
pub(crate) struct Graph(Vec<u8>);

impl Graph {
    pub(crate) fn input(mut self, name: &str, kind: &Type<'_>) -> Self {
        bytes(&mut self.0, 11, &value_info(name, kind));
        self
    }

    pub(crate) fn output(mut self, name: &str, kind: &Type<'_>) -> Self {
        bytes(&mut self.0, 12, &value_info(name, kind));
        self
    }

    pub(crate) fn node(mut self, operator: &str, inputs: &[&str], output: &str) -> Self {
        let mut node = Vec::new();
        for input in inputs {
            bytes(&mut node, 1, input.as_bytes());
        }
        bytes(&mut node, 2, output.as_bytes());
        bytes(&mut node, 4, operator.as_bytes());
        bytes(&mut self.0, 1, &node);
        self
    }

    /// A constant matrix of floats.
    pub(crate) fn matrix(mut self, name: &str, dims: [u64; 2], values: &[f32]) -> Self {
        let mut tensor = Vec::new();
        number(&mut tensor, 1, dims[0]);
        number(&mut tensor, 1, dims[1]);
        number(&mut tensor, 2, 1);
        bytes(&mut tensor, 8, name.as_bytes());
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        bytes(&mut tensor, 9, &raw);
        bytes(&mut self.0, 5, &tensor);
        self
    }

    /// A constant matrix of floats in another file.
    pub(crate) fn matrix_in(mut self, file: &str, name: &str, dims: [u64; 2]) -> Self {
        bytes(&mut self.0, 5, &tensor_in(file, name, dims));
        self
    }

    /// A node whose output is a matrix of floats in another file.
    pub(crate) fn constant_in(mut self, file: &str, output: &str, dims: [u64; 2]) -> Self {
        let mut value = Vec::new();
        bytes(&mut value, 1, b"value");
        bytes(&mut value, 5, &tensor_in(file, "constant", dims));
        number(&mut value, 20, 4);
        let mut node = Vec::new();
        bytes(&mut node, 2, output.as_bytes());
        bytes(&mut node, 4, b"Constant");
        bytes(&mut node, 5, &value);
        bytes(&mut self.0, 1, &node);
        self
    }

    /// Encodes the model's file.
    pub(crate) fn model(mut self) -> Vec<u8> {
        bytes(&mut self.0, 2, b"graph");
        let mut operators = Vec::new();
        number(&mut operators, 2, 17);
        let mut model = Vec::new();
        number(&mut model, 1, 8);
        bytes(&mut model, 8, &operators);
        bytes(&mut model, 7, &self.0);
        model
    }
}

/// A tensor of floats that fills a file.
fn tensor_in(file: &str, name: &str, dims: [u64; 2]) -> Vec<u8> {
    let mut tensor = Vec::new();
    number(&mut tensor, 1, dims[0]);
    number(&mut tensor, 1, dims[1]);
    number(&mut tensor, 2, 1);
    bytes(&mut tensor, 8, name.as_bytes());
    let length = (dims[0] * dims[1] * 4).to_string();
    for (key, value) in [("location", file), ("offset", "0"), ("length", &length)] {
        let mut entry = Vec::new();
        bytes(&mut entry, 1, key.as_bytes());
        bytes(&mut entry, 2, value.as_bytes());
        bytes(&mut tensor, 13, &entry);
    }
    number(&mut tensor, 14, 1);
    tensor
}

fn value_info(name: &str, Type(element, dims): &Type<'_>) -> Vec<u8> {
    let mut shape = Vec::new();
    for (index, dim) in dims.iter().enumerate() {
        let mut dimension = Vec::new();
        match dim {
            Some(size) => number(&mut dimension, 1, *size),
            None => bytes(&mut dimension, 2, format!("d{index}").as_bytes()),
        }
        bytes(&mut shape, 1, &dimension);
    }
    let mut tensor = Vec::new();
    number(&mut tensor, 1, *element);
    bytes(&mut tensor, 2, &shape);
    let mut kind = Vec::new();
    bytes(&mut kind, 1, &tensor);
    let mut info = Vec::new();
    bytes(&mut info, 1, name.as_bytes());
    bytes(&mut info, 2, &kind);
    info
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}
