//! Checks that splitting is the inverse of joining.

use std::time::Duration;

use batchfleet_broker::{GatewayId, Priority, RequestId};
use proptest::prelude::*;

use super::*;
use crate::tensors::encode_strings;

fn tensor(datatype: Datatype, shape: &[u64], data: Bytes) -> Tensor {
    Tensor { name: "X".to_owned(), datatype, shape: shape.to_vec(), data }
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
    }
}

fn count<T>(rows: &[T]) -> u32 {
    u32::try_from(rows.len()).unwrap()
}

/// Joins the jobs, then splits the joined inputs as if they were a model's outputs.
fn there_and_back(jobs: &[Job], padding: u32) -> (Vec<Tensor>, Vec<Vec<Tensor>>) {
    let (joined, slots) =
        Layout::RowsFirst.lay_out(&jobs.iter().collect::<Vec<_>>(), padding).join();
    let split = slots.split(joined.clone()).unwrap();
    (joined, split)
}

/// Generates jobs of 1 to 4 rows each; `row` generates one row.
fn requests<S: Strategy>(row: S) -> impl Strategy<Value = Vec<Vec<S::Value>>> {
    prop::collection::vec(prop::collection::vec(row, 1..5), 1..12)
}

proptest! {
    #[test]
    fn every_row_of_numbers_comes_back_to_its_owner(
        requests in requests(any::<[u8; 12]>()),
        padding in 0_u32..4,
    ) {
        let jobs: Vec<Job> = requests
            .iter()
            .map(|rows| {
                let shape = [rows.len() as u64, 3];
                job(count(rows), vec![tensor(Datatype::Fp32, &shape, rows.concat().into())])
            })
            .collect();
        let (joined, split) = there_and_back(&jobs, padding);
        let rows = jobs.iter().map(|job| job.rows).sum::<u32>() + padding;
        prop_assert_eq!(&joined[0].shape, &[u64::from(rows), 3]);
        prop_assert_eq!(joined[0].data.len(), 12 * rows as usize);
        let inputs: Vec<Vec<Tensor>> = jobs.into_iter().map(|job| job.inputs).collect();
        prop_assert_eq!(split, inputs);
    }

    #[test]
    fn every_string_comes_back_to_its_owner(
        requests in requests(prop::collection::vec(any::<u8>(), 0..9)),
        padding in 0_u32..4,
    ) {
        let jobs: Vec<Job> = requests
            .iter()
            .map(|rows| {
                let shape = [rows.len() as u64];
                job(count(rows), vec![tensor(Datatype::Bytes, &shape, encode_strings(rows.iter()))])
            })
            .collect();
        let (_, split) = there_and_back(&jobs, padding);
        let inputs: Vec<Vec<Tensor>> = jobs.into_iter().map(|job| job.inputs).collect();
        prop_assert_eq!(split, inputs);
    }

    #[test]
    fn jobs_may_be_joined_if_they_differ_in_rows_only(
        dims in prop::array::uniform2(prop::collection::vec(1_u64..4, 1..4)),
        rows in prop::array::uniform2(1_u64..5),
    ) {
        let [one, other] = [0, 1].map(|index| {
            let shape = [&rows[index..=index], &dims[index]].concat();
            job(u32::try_from(rows[index]).unwrap(), vec![tensor(Datatype::Uint8, &shape, Bytes::new())])
        });
        prop_assert_eq!(Layout::RowsFirst.can_join(&one, &other), dims[0] == dims[1]);
        prop_assert!(!Layout::Single.can_join(&one, &other));
    }
}

#[test]
fn an_output_without_the_rows_of_its_batch_is_an_error() {
    let jobs = [1, 2].map(|rows| job(rows, Vec::new()));
    for shape in [vec![], vec![1, 4], vec![4]] {
        let output = tensor(Datatype::Uint8, &shape, Bytes::from_static(&[0; 4]));
        let (_, slots) = Layout::RowsFirst.lay_out(&jobs.each_ref(), 0).join();
        assert!(matches!(slots.split(vec![output]), Err(UnevenOutput { rows: 3, .. })));
    }
}

#[test]
fn one_request_is_not_copied() {
    let data = Bytes::from_static(b"abcd");
    let job = job(1, vec![tensor(Datatype::Uint8, &[1, 4], data.clone())]);
    let (joined, split) = there_and_back(&[job], 0);
    assert_eq!(joined[0].data.as_ptr(), data.as_ptr());
    assert_eq!(split[0][0].data.as_ptr(), data.as_ptr());
}

#[test]
fn a_model_without_a_row_dimension_keeps_the_shapes_of_its_one_request() {
    let job = job(1, vec![tensor(Datatype::Uint8, &[4], Bytes::from_static(b"abcd"))]);
    let (joined, slots) = Layout::Single.lay_out(&[&job], 0).join();
    assert_eq!(joined, job.inputs);
    let output = tensor(Datatype::Uint8, &[2, 2], Bytes::from_static(b"efgh"));
    assert_eq!(slots.split(vec![output.clone()]).unwrap(), [[output]]);
}

#[test]
fn a_model_batches_if_the_first_dimension_of_every_tensor_is_open() {
    let spec = |shape: &[i64]| TensorSpec::new("X", Datatype::Fp32, shape);
    let open = [spec(&[-1, 3])];
    assert!(Layout::can_batch(&open, &open));
    assert!(!Layout::can_batch(&[], &open));
    assert!(!Layout::can_batch(&open, &[spec(&[-1]), spec(&[])]));
    assert!(!Layout::can_batch(&[spec(&[1, -1])], &open));
}
