use super::*;
use crate::protobuf::message;

fn entry(key: &str, value: &str) -> Vec<u8> {
    message(&[(number::KEY, key.as_bytes()), (number::VALUE, value.as_bytes())])
}

/// A tensor in a file, with a name before and a text after the external data.
pub(super) fn tensor(location: &str, offset: &str, length: Option<&str>) -> Vec<u8> {
    let mut tensor = message(&[
        (8, b"name"),
        (number::EXTERNAL_DATA, &entry("location", location)),
        (number::EXTERNAL_DATA, &entry("offset", offset)),
    ]);
    if let Some(length) = length {
        push_bytes(&mut tensor, number::EXTERNAL_DATA, &entry("length", length));
    }
    // data_location: EXTERNAL
    tensor.extend([0x70, 1]);
    push_bytes(&mut tensor, 12, b"text");
    tensor
}

fn found(location: &str, offset: u64, length: Option<u64>, is_initializer: bool) -> ExternalTensor {
    let location = location.to_owned();
    ExternalTensor { location, offset, length, is_aligned: true, is_initializer }
}

/// A model with an external tensor in each place that may hold one.
fn model() -> Vec<u8> {
    let plain = message(&[(8, b"plain"), (number::RAW_DATA, b"1234")]);
    let constant = message(&[(5, &tensor("constant", "0", None))]);
    let branch = message(&[(5, &tensor("branch", "8", Some("4")))]);
    let branches = message(&[(6, &branch), (11, &branch)]);
    let sparse = message(&[(1, &tensor("values", "0", None)), (2, &plain)]);
    let node = message(&[(1, b"input"), (5, &constant), (5, &branches), (4, b"If")]);
    let graph = message(&[
        (1, &node),
        (2, b"graph"),
        (5, &tensor("weights", "16", Some("32"))),
        (5, &plain),
        (15, &sparse),
    ]);
    let function = message(&[(7, &node), (11, &constant)]);
    message(&[(7, &graph), (25, &function), (14, b"metadata")])
}

#[test]
fn finds_external_data_wherever_a_model_may_have_it() {
    let nested = || {
        let branch = found("branch", 8, Some(4), false);
        vec![found("constant", 0, None, false), branch.clone(), branch]
    };
    let mut expected = nested();
    expected.push(found("weights", 16, Some(32), true));
    expected.push(found("values", 0, None, false));
    expected.extend(nested());
    expected.push(found("constant", 0, None, false));
    assert_eq!(external_tensors(&model()).unwrap(), expected);
}

#[test]
fn embeds_all_data_except_that_of_the_main_graphs_initializers() {
    let embedded = embed(&model(), &|tensor| match tensor.location.as_str() {
        "weights" => panic!("an initializer of the main graph"),
        "branch" => Some(b"abcd"),
        _ => Some(b""),
    });
    let embedded = embedded.unwrap().unwrap();
    let left = external_tensors(&embedded).unwrap();
    assert_eq!(left, [found("weights", 16, Some(32), true)]);
    let mut raw = Vec::new();
    visit(Kind::Model, &embedded, 0, &mut |tensor, _| {
        let numbers: Vec<u64> = fields(tensor).map(|field| field.unwrap().number).collect();
        if numbers == [8, 12, number::RAW_DATA] {
            raw.extend(fields(tensor).last().map(|field| field.unwrap().encoded.to_vec()));
        }
        Ok(())
    })
    .unwrap();
    let expected = |data: &[u8]| message(&[(number::RAW_DATA, data)]);
    assert_eq!(raw.len(), 8);
    assert_eq!(raw.iter().filter(|data| **data == expected(b"abcd")).count(), 4);
    // All other bytes are still there, in their order.
    assert!(embedded.ends_with(&message(&[(14, b"metadata")])));
}

#[test]
fn a_model_without_nested_external_data_is_left_as_it_is() {
    let graph = message(&[(5, &tensor("weights", "0", None))]);
    assert_eq!(embed(&message(&[(7, &graph)]), &|_| Some(b"")), Ok(None));
}

#[test]
fn data_that_is_declared_but_not_used_is_not_external() {
    let tensor = message(&[(number::EXTERNAL_DATA, &entry("location", "weights"))]);
    let graph = message(&[(5, &tensor)]);
    assert_eq!(external_tensors(&message(&[(7, &graph)])), Ok(Vec::new()));
}

#[test]
fn values_are_aligned_if_they_begin_at_a_multiple_of_their_size() {
    for (data_type, offset, is_aligned) in
        [(1, 4, true), (1, 6, false), (10, 6, true), (7, 12, false), (7, 16, true), (3, 1, true)]
    {
        let mut tensor = tensor("weights", &offset.to_string(), None);
        tensor.extend([0x10, data_type]);
        let model = message(&[(7, &message(&[(5, &tensor)]))]);
        let found = external_tensors(&model).unwrap();
        assert_eq!(found[0].is_aligned, is_aligned, "type {data_type} at {offset}");
    }
}

#[test]
fn broken_models_are_malformed() {
    let negative = message(&[(5, &tensor("weights", "-1", None))]);
    let mut deep = message(&[(5, &tensor("weights", "0", None))]);
    for _ in 0..40 {
        deep = message(&[(1, &message(&[(5, &message(&[(6, &deep)]))]))]);
    }
    for model in [b"no model".to_vec(), message(&[(7, &negative)]), message(&[(7, &deep)])] {
        assert_eq!(external_tensors(&model), Err(Malformed));
    }
}
