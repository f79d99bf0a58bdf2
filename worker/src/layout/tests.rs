//! Checks that splitting is the inverse of joining, along any dimension.

mod ahead;
mod padding;

use std::{num::NonZeroU32, time::Duration};

use batchfleet_broker::{Datatype, GatewayId, Priority, QueueName, RequestId};
use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn tensor(name: &str, datatype: Datatype, shape: &[u64], data: impl Into<Bytes>) -> Tensor {
    Tensor { name: name.to_owned(), datatype, shape: shape.to_vec(), data: data.into() }
}

fn job(rows: u32, inputs: Vec<Tensor>) -> Job {
    Job {
        id: RequestId(0),
        gateway: GatewayId(0),
        attempt: 0,
        priority: Priority::Default,
        ttl: Duration::from_secs(1),
        rows,
        digest: 0,
        inputs,
        outputs: Vec::new(),
        trace: None,
        classes: Vec::new(),
        offer: None,
    }
}

/// The layout of a model whose outputs are like its inputs.
fn layout(tensors: &[TensorSpec]) -> Layout {
    Layout::of(&ModelSpec {
        queue: QueueName::new("m", 1),
        platform: String::new(),
        backend: String::new(),
        max_batch: NonZeroU32::new(64),
        inputs: tensors.to_vec(),
        outputs: tensors.to_vec(),
    })
}

fn single() -> Layout {
    Layout { axes: None, padding: None }
}

fn spec(name: &str, shape: &[i64], row_axis: Option<u32>) -> TensorSpec {
    TensorSpec { row_axis, ..TensorSpec::new(name, Datatype::Fp32, shape) }
}

/// A tensor "X" of random elements: some dimensions, one of which counts rows.
#[derive(Clone, Debug)]
struct Kind {
    datatype: Datatype,
    /// The other dimensions.
    dims: Vec<u64>,
    axis: usize,
}

impl Kind {
    fn any() -> impl Strategy<Value = Self> {
        let datatypes = [Datatype::Uint8, Datatype::Fp32, Datatype::Fp64, Datatype::Bytes];
        let datatype = prop::sample::select(datatypes.to_vec());
        let dims = prop::collection::vec(0_u64..4, 0..4);
        (datatype, dims).prop_flat_map(|(datatype, dims)| {
            let axis = 0..=dims.len();
            axis.prop_map(move |axis| Self { datatype, dims: dims.clone(), axis })
        })
    }

    fn shape(&self, rows: u64) -> Vec<u64> {
        let mut shape = self.dims.clone();
        shape.insert(self.axis, rows);
        shape
    }

    fn layout(&self) -> Layout {
        let shape = vec![-1; self.dims.len() + 1];
        layout(&[spec("X", &shape, u32::try_from(self.axis).ok())])
    }

    /// The tensor of the rows with these seeds. Each element is different, and known from the seed
    /// of its row and its position in the row.
    fn tensor(&self, rows: &[u16]) -> Tensor {
        let inner: u64 = self.dims[self.axis..].iter().product();
        let outer: u64 = self.dims[..self.axis].iter().product();
        let mut data = Vec::new();
        for block in 0..outer {
            for row in rows {
                (0..inner).for_each(|at| self.push(&mut data, *row, block * inner + at));
            }
        }
        tensor("X", self.datatype, &self.shape(rows.len() as u64), data)
    }

    fn push(&self, data: &mut Vec<u8>, row: u16, at: u64) {
        let value = u64::from(row) << 8 | at;
        if let Some(size) = self.datatype.size() {
            data.extend(value.to_le_bytes().iter().cycle().take(size));
        } else {
            let text = "é".repeat(usize::from(row) % 4) + &value.to_string();
            data.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
            data.extend(text.as_bytes());
        }
    }
}

/// Several requests, each of some rows.
fn requests() -> impl Strategy<Value = Vec<Vec<u16>>> {
    prop::collection::vec(prop::collection::vec(0_u16..200, 1..5), 1..8)
}

/// A job for each request, all of `kind`.
fn jobs(kind: &Kind, requests: &[Vec<u16>]) -> Vec<Job> {
    let job = |rows: &Vec<u16>| job(u32::try_from(rows.len()).unwrap(), vec![kind.tensor(rows)]);
    requests.iter().map(job).collect()
}

fn whole(jobs: &[Job]) -> Vec<JobRows<'_>> {
    jobs.iter().map(|job| JobRows { job, rows: 0..job.rows }).collect()
}

proptest! {
    #[test]
    fn joined_rows_are_in_order_and_come_back_to_their_owners(
        kind in Kind::any(),
        requests in requests(),
        padding in 0_u32..4,
    ) {
        let (layout, jobs) = (kind.layout(), jobs(&kind, &requests));
        let (joined, slots) = layout.lay_out(&whole(&jobs), padding).join();
        if padding == 0 {
            prop_assert_eq!(&joined[0], &kind.tensor(&requests.concat()));
        }
        let rows = requests.concat().len() as u64 + u64::from(padding);
        prop_assert_eq!(&joined[0].shape, &kind.shape(rows));
        let split = slots.split(joined).unwrap();
        let inputs: Vec<Vec<Tensor>> = jobs.into_iter().map(|job| job.inputs).collect();
        prop_assert_eq!(split, inputs);
    }

    #[test]
    fn rows_of_padding_are_zeros_or_empty_strings(
        kind in Kind::any(),
        rows in prop::collection::vec(0_u16..200, 1..5),
        padding in 1_u32..4,
    ) {
        let jobs = jobs(&kind, &[rows]);
        let (joined, slots) = kind.layout().lay_out(&whole(&jobs), padding).join();
        let rows = slots.rows() - padding..slots.rows();
        let Tensor { datatype, shape, data, .. } = joined[0].clone();
        let last = Rows::new(datatype, &shape, kind.axis, data).take(&rows);
        let elements = kind.shape(padding.into()).iter().product();
        prop_assert_eq!(last, crate::tensors::zeros(datatype, elements));
    }

    #[test]
    fn a_request_in_parts_gets_the_same_outputs_as_a_whole_one(
        kind in Kind::any(),
        requests in requests(),
        large in prop::collection::vec(0_u16..200, 2..20),
        most in 1_u32..5,
    ) {
        let (layout, jobs) = (kind.layout(), jobs(&kind, &[&[large][..], &requests].concat()));
        let (large, others) = jobs.split_first().unwrap();
        let (mut parts, mut begin) = (Vec::new(), 0);
        while begin < large.rows {
            let end = large.rows.min(begin + most);
            let part = JobRows { job: large, rows: begin..end };
            let batch: Vec<_> = whole(others).into_iter().chain([part]).collect();
            let (joined, slots) = layout.lay_out(&batch, 0).join();
            parts.push(slots.split(joined).unwrap().pop().unwrap());
            begin = end;
        }
        let joined = layout.join_outputs(&parts).unwrap();
        prop_assert_eq!(&joined, &large.inputs);
    }

    #[test]
    fn jobs_may_be_joined_if_they_differ_in_rows_only(
        dims in prop::array::uniform2(prop::collection::vec(1_u64..3, 1..4)),
        rows in prop::array::uniform2(1_u64..5),
        axis in 0_usize..3,
    ) {
        let axis = axis.min(dims[0].len());
        let layout = Kind { datatype: Datatype::Uint8, dims: dims[0].clone(), axis }.layout();
        let [one, other] = [0, 1].map(|index| {
            let kind =
                Kind { datatype: Datatype::Uint8, dims: dims[index].clone(), axis: axis.min(dims[index].len()) };
            job(1, vec![tensor("X", Datatype::Uint8, &kind.shape(rows[index]), Bytes::new())])
        });
        let without_rows = |job: &Job| {
            let mut shape = job.inputs[0].shape.clone();
            let rank = shape.len();
            if axis < rank {
                shape.remove(axis);
            }
            (rank, shape)
        };
        let alike = without_rows(&one) == without_rows(&other);
        prop_assert_eq!(layout.can_join(&one, &other), alike);
        prop_assert!(!single().can_join(&one, &other));
    }
}

/// A recurrent model: a signal, a state along the second dimension, a sampling rate without rows,
/// and a window that is declared to have no rows.
fn recurrent() -> Layout {
    layout(&[
        spec("signal", &[-1, 4], Some(0)),
        spec("state", &[2, -1, 3], Some(1)),
        spec("rate", &[], Some(0)),
        spec("window", &[-1], None),
    ])
}

fn recurrent_job(rows: u32, rate: u8, window: &'static [u8]) -> Job {
    let (signal, state) = (vec![1; 4 * rows as usize], vec![2; 6 * rows as usize]);
    let inputs = vec![
        tensor("signal", Datatype::Uint8, &[rows.into(), 4], signal),
        tensor("state", Datatype::Uint8, &[2, rows.into(), 3], state),
        tensor("rate", Datatype::Uint8, &[], vec![rate]),
        tensor("window", Datatype::Uint8, &[window.len() as u64], window),
    ];
    job(rows, inputs)
}

#[test]
fn requests_with_the_same_values_without_rows_are_joined_and_the_batch_has_them_once() {
    let layout = recurrent();
    let one = recurrent_job(1, 16, b"ab");
    for (other, joins) in [
        (recurrent_job(3, 16, b"ab"), true),
        (recurrent_job(3, 8, b"ab"), false),
        (recurrent_job(3, 16, b"ac"), false),
        (recurrent_job(3, 16, b"a"), false),
    ] {
        assert_eq!(layout.can_join(&one, &other), joins);
    }
    let jobs = [one, recurrent_job(3, 16, b"ab")];
    let (joined, slots) = layout.lay_out(&whole(&jobs), 2).join();
    let shapes: Vec<&[u64]> = joined.iter().map(|tensor| &tensor.shape[..]).collect();
    assert_eq!(shapes, [&[6, 4][..], &[2, 6, 3], &[], &[2]]);
    assert_eq!((&joined[2].data[..], &joined[3].data[..]), (&[16][..], &b"ab"[..]));
    // Every request gets the outputs that have no rows.
    let split = slots.split(joined).unwrap();
    assert_eq!(split, jobs.map(|job| job.inputs));
}

#[test]
fn requests_that_leave_out_different_inputs_are_not_joined() {
    let layout = recurrent();
    let without = |missing: &[&str]| {
        let mut job = recurrent_job(1, 16, b"ab");
        job.inputs.retain(|input| !missing.contains(&input.name.as_str()));
        job
    };
    let no_state = without(&["state"]);
    assert!(layout.can_join(&no_state, &without(&["state"])));
    assert!(!layout.can_join(&no_state, &without(&[])));
    assert!(!layout.can_join(&no_state, &without(&["rate"])));
    let (joined, _) = layout.lay_out(&whole(&[no_state, without(&["state"])]), 0).join();
    let shapes: Vec<&[u64]> = joined.iter().map(|tensor| &tensor.shape[..]).collect();
    assert_eq!(shapes, [&[2, 4][..], &[], &[2]]);
    // Nothing shows how many rows the outputs have.
    let no_rows = without(&["signal", "state"]);
    assert!(!layout.can_join(&no_rows, &no_rows.clone()));
}

#[test]
fn outputs_of_parts_that_differ_in_more_than_rows_are_not_joined() {
    let layout = layout(&[spec("Y", &[-1, -1], Some(0)), spec("labels", &[-1], None)]);
    let part = |width: u64, labels: &'static [u8]| {
        let rows =
            tensor("Y", Datatype::Uint8, &[1, width], vec![7; usize::try_from(width).unwrap()]);
        vec![rows, tensor("labels", Datatype::Uint8, &[2], labels)]
    };
    let joined = layout.join_outputs(&[part(3, b"xy"), part(3, b"xy")]).unwrap();
    assert_eq!(joined[0].shape, [2, 3]);
    assert_eq!(joined[1], part(3, b"xy")[1]);
    assert_eq!(layout.join_outputs(&[part(3, b"xy"), part(2, b"xy")]), None);
    assert_eq!(layout.join_outputs(&[part(3, b"xy"), part(3, b"xz")]), None);
    assert_eq!(layout.join_outputs(&[]), None);
}

#[test]
fn an_output_without_the_rows_of_its_batch_is_an_error() {
    let jobs = [1, 2].map(|rows| job(rows, Vec::new()));
    for (axis, shape) in
        [(0, &[][..]), (0, &[1, 4]), (0, &[4]), (1, &[3]), (1, &[3, 4]), (2, &[3, 3, 1])]
    {
        let layout = layout(&[spec("X", &[-1; 3], Some(axis))]);
        let output = tensor("X", Datatype::Uint8, shape, Bytes::from_static(&[0; 4]));
        let (_, slots) = layout.lay_out(&whole(&jobs), 0).join();
        assert!(matches!(slots.split(vec![output]), Err(UnevenOutput { rows: 3, .. })));
    }
}

#[test]
fn one_request_is_not_copied_and_outputs_along_the_first_dimension_are_slices() {
    let data = Bytes::from_static(b"abcd");
    let layout = layout(&[spec("X", &[-1, 2], Some(0))]);
    let input = |data: Bytes| vec![tensor("X", Datatype::Uint8, &[2, 2], data)];
    let jobs = [job(2, input(data.clone()))];
    let (joined, slots) = layout.lay_out(&whole(&jobs), 0).join();
    assert_eq!(joined[0].data.as_ptr(), data.as_ptr());
    assert_eq!(slots.split(joined).unwrap()[0][0].data.as_ptr(), data.as_ptr());
    let split = layout.single_rows(2).split(input(data.clone())).unwrap();
    assert_eq!(split[1][0].data.as_ptr(), data[2..].as_ptr());
    let half = [JobRows { job: &jobs[0], rows: 1..2 }];
    let (joined, _) = layout.lay_out(&half, 0).join();
    assert_eq!(joined[0].data.as_ptr(), data[2..].as_ptr());
}

#[test]
fn a_model_that_does_not_batch_keeps_the_shapes_of_its_one_request() {
    let job = job(1, vec![tensor("X", Datatype::Uint8, &[4], Bytes::from_static(b"abcd"))]);
    let (joined, slots) = single().lay_out(&[JobRows { job: &job, rows: 0..1 }], 0).join();
    assert_eq!(joined, job.inputs);
    let output = tensor("X", Datatype::Uint8, &[2, 2], Bytes::from_static(b"efgh"));
    assert_eq!(slots.split(vec![output.clone()]).unwrap(), [[output]]);
}

#[test]
fn a_model_batches_if_its_rows_are_open_and_all_else_is_one_value_for_the_batch() {
    let open = || spec("X", &[-1, 3], Some(0));
    let state = || spec("state", &[2, -1, 3], Some(1));
    let scalar = || spec("rate", &[], Some(0));
    let window = || spec("window", &[256], None);
    for (inputs, outputs, batches) in [
        (vec![open()], vec![open()], true),
        (vec![], vec![open()], false),
        (vec![open(), state(), scalar(), window()], vec![open(), state()], true),
        (vec![state()], vec![state()], true),
        (vec![scalar(), window()], vec![open()], false),
        (vec![open()], vec![open(), spec("loss", &[], Some(0))], false),
        (vec![open()], vec![open(), spec("labels", &[9], None)], true),
        (vec![open()], vec![spec("Y", &[2, 3], Some(0))], false),
        (vec![spec("X", &[1, -1], Some(0))], vec![open()], false),
        (vec![spec("X", &[2, 3], Some(1))], vec![open()], false),
        (vec![open(), spec("Z", &[-1], Some(1))], vec![open()], false),
    ] {
        assert_eq!(Layout::can_batch(&inputs, &outputs), batches, "{inputs:?} {outputs:?}");
    }
}

#[test]
fn the_shape_of_one_row_is_opened_along_its_axis() {
    assert_eq!(Layout::open(&spec("X", &[3], Some(0))).shape, [-1, 3]);
    assert_eq!(Layout::open(&spec("X", &[2, 3], Some(1))).shape, [2, -1, 3]);
    assert_eq!(Layout::open(&spec("X", &[2], Some(1))).shape, [2, -1]);
    assert_eq!(Layout::open(&spec("X", &[3], None)).shape, [3]);
}
