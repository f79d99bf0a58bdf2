//! Checks that cutting is the inverse of padding, along any dimension and for any datatype.

use std::collections::BTreeMap;

use super::*;
use crate::graph::Graph;

/// A layout whose input "X" may be padded with `value` along `pad`, and whose output "X" is cut.
fn padded(kind: &Kind, pad: usize, value: &str, sizes: &str) -> Layout {
    let layout = kind.layout();
    let shape = vec![-1; kind.dims.len() + 1];
    let spec = TensorSpec {
        row_axis: u32::try_from(kind.axis).ok(),
        ..TensorSpec::new("X", kind.datatype, shape)
    };
    let model = ModelSpec {
        queue: QueueName::new("m", 1),
        platform: String::new(),
        backend: String::new(),
        max_batch: NonZeroU32::new(64),
        inputs: vec![spec.clone()],
        outputs: vec![spec],
    };
    let parameters = [
        ("pad", format!("X:{pad}={value}")),
        ("cut", format!("X:{pad}")),
        ("pad_sizes", sizes.to_owned()),
    ];
    let parameters: BTreeMap<String, String> =
        parameters.map(|(key, value)| (key.to_owned(), value)).into();
    let padding = Padding::declared(&parameters, &model, &Graph::default()).unwrap();
    layout.with_padding(padding.map(Arc::new))
}

/// The dimension of the tensor's shape that is the other dimension `at` of its kind.
fn dimension(kind: &Kind, at: usize) -> usize {
    if at < kind.axis { at } else { at + 1 }
}

proptest! {
    #[test]
    fn padded_requests_come_back_as_they_were(
        kind in Kind::any().prop_filter("rows have a dimension", |kind| !kind.dims.is_empty()),
        at: prop::sample::Index,
        requests in prop::collection::vec((prop::collection::vec(0_u16..200, 1..4), 0_u64..6), 1..7),
        sizes in prop::sample::select(vec!["", "4", "3,8"]),
        rows_of_padding in 0_u32..3,
    ) {
        let at = at.index(kind.dims.len());
        let pad = dimension(&kind, at);
        let value = if kind.datatype == Datatype::Bytes { "pad" } else { "7" };
        let layout = padded(&kind, pad, value, sizes);
        let of_length = |length: u64| {
            let mut kind = kind.clone();
            kind.dims[at] = length;
            kind
        };
        let jobs: Vec<Job> = requests
            .iter()
            .map(|(rows, length)| {
                job(u32::try_from(rows.len()).unwrap(), vec![of_length(*length).tensor(rows)])
            })
            .collect();
        for other in &jobs[1..] {
            prop_assert!(layout.can_join(&jobs[0], other));
        }
        let (inputs, slots) = layout.lay_out(&whole(&jobs), rows_of_padding).join();
        let longest = requests.iter().map(|&(_, length)| length).max().unwrap();
        prop_assert!(inputs[0].shape[pad] >= longest);
        let elements: u64 = inputs[0].shape.iter().product();
        if let Some(size) = kind.datatype.size() {
            prop_assert_eq!(inputs[0].data.len() as u64, elements * size as u64);
        }
        let outputs = slots.split(inputs).unwrap();
        prop_assert_eq!(outputs.len(), jobs.len());
        for (job, outputs) in jobs.iter().zip(&outputs) {
            prop_assert_eq!(outputs, &job.inputs);
        }
    }
}

#[test]
fn values_are_added_at_the_end_of_each_row_up_to_the_next_size() {
    let kind = Kind { datatype: Datatype::Uint8, dims: vec![1], axis: 0 };
    let of = |length: u64, data: &[u8]| {
        let rows = data.len() as u64 / length;
        job(
            u32::try_from(rows).unwrap(),
            vec![tensor("X", Datatype::Uint8, &[rows, length], data.to_vec())],
        )
    };
    let jobs = [of(2, &[1, 2, 3, 4]), of(3, &[5, 6, 7])];
    for (sizes, expected) in [
        ("", &[1, 2, 9, 3, 4, 9, 5, 6, 7][..]),
        ("4", &[1, 2, 9, 9, 3, 4, 9, 9, 5, 6, 7, 9]),
        ("2", &[1, 2, 9, 3, 4, 9, 5, 6, 7]),
    ] {
        let (inputs, _) = padded(&kind, 1, "9", sizes).lay_out(&whole(&jobs), 0).join();
        assert_eq!(inputs[0].data[..], *expected, "sizes {sizes:?}");
    }
}

#[test]
fn requests_of_different_lengths_are_joined_only_if_padding_is_declared() {
    let kind = Kind { datatype: Datatype::Uint8, dims: vec![1, 1], axis: 0 };
    let of = |shape: &[u64]| job(1, vec![tensor("X", Datatype::Uint8, shape, vec![0; 12])]);
    let joins = |layout: &Layout, other: &[u64]| layout.can_join(&of(&[1, 3, 4]), &of(other));
    let layout = padded(&kind, 1, "0", "");
    assert!(joins(&layout, &[1, 2, 4]) && joins(&layout, &[2, 3, 4]));
    assert!(!joins(&layout, &[1, 3, 5]), "the third dimension is not declared");
    assert!(!joins(&kind.layout(), &[1, 2, 4]));
}
