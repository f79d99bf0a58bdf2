use proto::{DimensionProto, FunctionProto, INT64, TensorShapeProto, TensorTypeProto, TypeProto};

use super::*;

fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    NodeProto {
        input: names(inputs),
        output: names(outputs),
        op_type: operator.to_owned(),
        ..NodeProto::default()
    }
}

fn with(mut node: NodeProto, name: &str, i: i64) -> NodeProto {
    node.attribute.push(AttributeProto { name: name.to_owned(), i, ..AttributeProto::default() });
    node
}

fn weights(name: &str, dims: &[i64]) -> TensorProto {
    TensorProto { name: name.to_owned(), dims: dims.to_vec(), data_type: 1, ..Default::default() }
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorProto {
        data_type: INT64,
        raw_data,
        ..weights(name, &[i64::try_from(values.len()).unwrap()])
    }
}

/// An input or output; numbers are sizes, `?` is any size, and other texts are symbols.
fn value(name: &str, dims: &[&str]) -> ValueInfoProto {
    let dim = dims.iter().map(|dim| match (dim.parse(), *dim) {
        (Ok(size), _) => DimensionProto { dim_value: Some(size), dim_param: None },
        (_, "?") => DimensionProto::default(),
        (_, symbol) => DimensionProto { dim_value: None, dim_param: Some(symbol.to_owned()) },
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let kind = Some(TypeProto { tensor_type: Some(TensorTypeProto { shape }) });
    ValueInfoProto { name: name.to_owned(), kind }
}

fn model(graph: GraphProto) -> ModelProto {
    ModelProto { graph: Some(graph), ..ModelProto::default() }
}

fn graph_of(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Graph {
    Graph::of(model(GraphProto { node: nodes, initializer, ..GraphProto::default() }))
}

#[test]
fn reads_the_facts_and_skips_the_weights() {
    let large = TensorProto { raw_data: vec![1; 300_000], ..weights("W", &[25_000, 3]) };
    let graph = GraphProto {
        node: vec![node("MatMul", &["X", "W"], &["Y"])],
        initializer: vec![large, integers("shape", &[-1, 6])],
        input: vec![value("X", &["batch", "?", "3"]), value("W", &["25000", "3"])],
        output: vec![value("Y", &["batch", "3"])],
    };
    let graph = Graph::read(&model(graph).encode_to_vec()).unwrap();
    let batch = Dimension::Symbol("batch".to_owned());
    assert_eq!(graph.input("X"), Some(&[batch, Dimension::Open, Dimension::Size(3)][..]));
    assert_eq!(graph.input("W"), None, "a weight is no input");
    assert_eq!(graph.constants["W"].dims, [25_000, 3]);
    assert_eq!(graph.constants["W"].integers, None);
    assert_eq!(graph.constants["shape"].integers, Some(vec![-1, 6]));
}

#[test]
fn a_file_that_is_cut_short_or_no_model_is_an_error() {
    let whole =
        model(GraphProto { initializer: vec![weights("W", &[2]); 9], ..Default::default() });
    let whole = whole.encode_to_vec();
    assert!(Graph::read(&whole[..whole.len() - 3]).is_err());
    assert!(Graph::read(b"version https://git-lfs.github.com/spec/v1").is_err());
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
        let input = inputs.iter().enumerate().map(|(at, dims)| value(&format!("X{at}"), dims));
        let graph = GraphProto { input: input.collect(), ..GraphProto::default() };
        assert!(Graph::of(model(graph)).row_symbols().iter().eq(expected), "{inputs:?}");
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
    let branch = GraphProto {
        node: vec![node("DynamicQuantizeLinear", &["X"], &["q", "s", "z"])],
        ..GraphProto::default()
    };
    let mut choice = node("If", &["c"], &["Y"]);
    choice.attribute.push(AttributeProto { g: Some(branch), ..AttributeProto::default() });
    let graph = GraphProto {
        node: vec![
            choice,
            with(node("Softmax", &["X"], &["S"]), "axis", -1),
            with(node("ArgMax", &["X"], &["A"]), "axis", 0),
        ],
        ..GraphProto::default()
    };
    let function = FunctionProto { node: vec![node("RandomNormalLike", &["X"], &["R"])] };
    let graph = Graph::of(ModelProto { functions: vec![function], ..model(graph) });
    assert!(graph.batch_scaled().iter().eq(&["DynamicQuantizeLinear"]));
    assert!(graph.random().iter().eq(&["RandomNormalLike"]));
    assert!(graph.along_rows().iter().eq(&["ArgMax"]));
}
