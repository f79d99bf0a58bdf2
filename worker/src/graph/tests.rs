use super::*;
use crate::protobuf::{message, push_bytes, push_number};

/// An encoded operator.
fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
    let mut node = Vec::new();
    for (number, names) in [(1, inputs), (2, outputs), (4, &[operator])] {
        for name in names {
            push_bytes(&mut node, number, name.as_bytes());
        }
    }
    node
}

/// The operator with an attribute that is an integer.
fn with(mut node: Vec<u8>, name: &str, integer: i64) -> Vec<u8> {
    let mut attribute = message(&[(1, name.as_bytes())]);
    push_number(&mut attribute, 3, integer.cast_unsigned());
    push_bytes(&mut node, 5, &attribute);
    node
}

/// An encoded tensor with these bytes as its data.
fn tensor(name: &str, data_type: u64, dims: &[u64], data: &[u8]) -> Vec<u8> {
    let mut tensor = message(&[(8, name.as_bytes()), (9, data)]);
    for &dim in dims {
        push_number(&mut tensor, 1, dim);
    }
    push_number(&mut tensor, 2, data_type);
    tensor
}

fn weights(name: &str, dims: &[u64]) -> Vec<u8> {
    tensor(name, 1, dims, &[])
}

fn integers(name: &str, values: &[i64]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, read::INT64, &[values.len() as u64], &data)
}

/// An input or output; numbers are sizes, `?` is any size, and other texts are symbols.
fn value(name: &str, dims: &[&str]) -> Vec<u8> {
    let mut shape = Vec::new();
    for dim in dims {
        let mut encoded = Vec::new();
        match (dim.parse(), *dim) {
            (Ok(size), _) => push_number(&mut encoded, 1, size),
            (_, "?") => {}
            (_, symbol) => push_bytes(&mut encoded, 2, symbol.as_bytes()),
        }
        push_bytes(&mut shape, 1, &encoded);
    }
    let kind = message(&[(1, &message(&[(2, &shape)]))]);
    message(&[(1, name.as_bytes()), (2, &kind)])
}

/// A model whose graph has these fields.
fn model(graph: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let graph: Vec<(u64, &[u8])> =
        graph.iter().map(|(number, bytes)| (*number, &bytes[..])).collect();
    message(&[(7, &message(&graph))])
}

fn graph_of(nodes: Vec<Vec<u8>>, initializers: Vec<Vec<u8>>) -> Graph {
    let nodes = nodes.into_iter().map(|node| (1, node));
    let initializers = initializers.into_iter().map(|tensor| (5, tensor));
    Graph::read(&model(&nodes.chain(initializers).collect::<Vec<_>>())).unwrap()
}

#[test]
fn reads_the_facts_and_skips_the_weights() {
    let graph = model(&[
        (1, node("MatMul", &["X", "W"], &["Y"])),
        (5, tensor("W", read::INT64, &[25_000, 3], &vec![1; 600_000])),
        (5, integers("shape", &[-1, 6])),
        (11, value("X", &["batch", "?", "3"])),
        (11, value("W", &["25000", "3"])),
        (12, value("Y", &["batch", "3"])),
    ]);
    let graph = Graph::read(&graph).unwrap();
    let batch = Dimension::Symbol("batch".to_owned());
    assert_eq!(graph.input("X"), Some(&[batch, Dimension::Open, Dimension::Size(3)][..]));
    assert_eq!(graph.input("W"), None, "a weight is no input");
    assert_eq!(graph.constants["W"].dims, [25_000, 3]);
    assert_eq!(graph.constants["W"].integers, None);
    assert_eq!(graph.constants["shape"].integers, Some(vec![-1, 6]));
}

#[test]
fn a_file_that_is_cut_short_or_no_model_is_an_error() {
    let whole = model(&vec![(5, weights("W", &[2])); 9]);
    assert!(Graph::read(&whole).is_ok());
    assert!(Graph::read(&whole[..whole.len() - 3]).is_err());
    assert!(Graph::read(b"version https://git-lfs.github.com/spec/v1").is_err());
}

#[test]
fn a_file_that_is_nested_too_deep_is_an_error() {
    let nested = |levels: u32| {
        let mut operator = node("Relu", &["X"], &["Y"]);
        for _ in 0..levels {
            operator = message(&[(5, &message(&[(6, &message(&[(1, &operator)]))]))]);
        }
        Graph::read(&model(&[(1, operator)]))
    };
    assert_eq!(nested(50).unwrap().nodes.len(), 51);
    assert!(nested(500).is_err());
}

#[test]
fn only_names_that_people_gave_tell_batches_apart() {
    for (inputs, expected) in [
        (&[&["images"][..], &["captions"]][..], &["captions", "images"][..]),
        (&[&["batch", "3"], &["batch"], &[]], &["batch"]),
        (&[&["unk__1"], &["unk__2"]], &[]),
        (&[&["DynamicDimension.0"], &["s77"], &["?"], &["4"]], &[]),
        (&[&["batch"], &["s1"]], &["batch"]),
    ] {
        let input = |(at, dims): (usize, &&[&str])| (11, value(&format!("X{at}"), dims));
        let graph = model(&inputs.iter().enumerate().map(input).collect::<Vec<_>>());
        assert!(Graph::read(&graph).unwrap().row_symbols().iter().eq(expected), "{inputs:?}");
    }
}

#[test]
fn tables_bound_the_integers_that_select_their_rows() {
    let graph = graph_of(
        vec![
            node("Cast", &["ids"], &["cast"]),
            node("DequantizeLinear", &["words", "scale"], &["table"]),
            node("Gather", &["table", "cast"], &["embedded"]),
            node("Gather", &["kinds", "kind"], &["kind_embedded"]),
            with(node("Gather", &["wide", "column"], &["selected"]), "axis", 1),
            node("Gather", &["embedded", "other"], &["computed"]),
            node("OneHot", &["letters", "depth", "off"], &["hot"]),
        ],
        vec![
            weights("words", &[30_522, 384]),
            weights("kinds", &[2, 384]),
            weights("wide", &[5, 7]),
            integers("depth", &[257]),
        ],
    );
    for (input, rows) in [
        ("ids", Some(30_522)),
        ("kind", Some(2)),
        ("column", Some(7)),
        ("other", None),
        ("letters", Some(257)),
        ("unknown", None),
    ] {
        assert_eq!(graph.table_rows(input), rows, "{input}");
    }
}

#[test]
fn weights_imply_the_sizes_of_open_dimensions() {
    for (nodes, initializer, rank, expected) in [
        (vec![node("MatMul", &["X", "W"], &["Y"])], weights("W", &[784, 10]), 2, Some((1, 784))),
        (
            vec![with(node("Gemm", &["X", "W"], &["Y"]), "transB", 1)],
            weights("W", &[10, 20]),
            2,
            Some((1, 20)),
        ),
        (
            vec![node("Relu", &["X"], &["R"]), with(node("Conv", &["R", "W"], &["Y"]), "group", 2)],
            weights("W", &[8, 3, 5, 5]),
            4,
            Some((1, 6)),
        ),
        (vec![node("LSTM", &["X", "W"], &["Y"])], weights("W", &[1, 16, 40]), 3, Some((2, 40))),
        (vec![node("Reshape", &["X", "W"], &["Y"])], integers("W", &[-1, 3, 28]), 2, Some((1, 84))),
        (vec![node("Sub", &["X", "W"], &["Y"])], weights("W", &[13]), 2, Some((1, 13))),
        (vec![node("MatMul", &["X", "Z"], &["Y"])], weights("W", &[784, 10]), 2, None),
        (vec![node("Reshape", &["X", "W"], &["Y"])], integers("W", &[0, -1]), 2, None),
    ] {
        let graph = graph_of(nodes, vec![initializer]);
        assert_eq!(graph.implied("X", rank).into_iter().next(), expected);
    }
}

#[test]
fn operators_are_found_in_subgraphs_and_functions() {
    let branch = message(&[(1, &node("DynamicQuantizeLinear", &["X"], &["q", "s", "z"]))]);
    let mut choice = node("If", &["c"], &["Y"]);
    push_bytes(&mut choice, 5, &message(&[(6, &branch)]));
    let mut file = model(&[
        (1, choice),
        (1, with(node("Softmax", &["X"], &["S"]), "axis", -1)),
        (1, with(node("ArgMax", &["X"], &["A"]), "axis", 0)),
    ]);
    push_bytes(&mut file, 25, &message(&[(7, &node("RandomNormalLike", &["X"], &["R"]))]));
    let graph = Graph::read(&file).unwrap();
    assert!(graph.batch_scaled().iter().eq(&["DynamicQuantizeLinear"]));
    assert!(graph.random().iter().eq(&["RandomNormalLike"]));
    assert!(graph.along_rows().iter().eq(&["ArgMax"]));
}

#[test]
fn words_are_those_of_attributes_and_constants() {
    let mut encoder = node("LabelEncoder", &["X"], &["Y"]);
    let long = "x".repeat(100);
    let keys = message(&[(1, b"keys_strings"), (9, b"red"), (9, b"blue"), (9, long.as_bytes())]);
    push_bytes(&mut encoder, 5, &keys);
    let mut colours = tensor("colours", 8, &[1], &[]);
    push_bytes(&mut colours, 6, b"green");
    assert_eq!(graph_of(vec![encoder], vec![colours]).words(), ["green", "red", "blue"]);
    let many = (0..200).fold(node("LabelEncoder", &["X"], &["Y"]), |mut node, number| {
        push_bytes(&mut node, 5, &message(&[(9, format!("word{number}").as_bytes())]));
        node
    });
    assert_eq!(graph_of(vec![many], Vec::new()).words().len(), 64);
}
