//! Checks that inputs that are joined before all requests of a batch are known are the same.

use super::*;

proptest! {
    #[test]
    fn rows_joined_ahead_are_those_joined_at_once(
        kind in Kind::any(),
        requests in requests(),
        steps in prop::collection::vec(0_usize..8, 0..4),
        padding in 0_u32..4,
    ) {
        let (layout, jobs) = (kind.layout(), jobs(&kind, &requests));
        let expected = layout.lay_out(&whole(&jobs), padding).join().0;
        let buffers = KeptBuffers::default();
        let mut ahead = JoinedAhead::new(buffers);
        for step in steps {
            let known = &jobs[..(step + 1).min(jobs.len())];
            layout.lay_out(&whole(known), 0).join_ahead(&mut ahead);
        }
        let (joined, slots) = layout.lay_out(&whole(&jobs), padding).join_rest(ahead);
        prop_assert_eq!(&joined, &expected);
        let inputs: Vec<Vec<Tensor>> = jobs.into_iter().map(|job| job.inputs).collect();
        prop_assert_eq!(slots.split(joined).unwrap(), inputs);
    }

    #[test]
    fn rows_of_a_request_that_left_the_batch_are_not_used(
        kind in Kind::any(),
        requests in requests(),
        left: prop::sample::Index,
    ) {
        let (layout, mut jobs) = (kind.layout(), jobs(&kind, &requests));
        let mut ahead = JoinedAhead::default();
        layout.lay_out(&whole(&jobs), 0).join_ahead(&mut ahead);
        if jobs.len() > 1 {
            jobs.remove(left.index(jobs.len()));
        }
        let (joined, _) = layout.lay_out(&whole(&jobs), 0).join_rest(ahead);
        prop_assert_eq!(joined, layout.lay_out(&whole(&jobs), 0).join().0);
    }
}

#[test]
fn the_rest_is_added_behind_the_rows_that_are_joined_without_another_copy() {
    let layout = layout(&[spec("X", &[-1, 2], Some(0))]);
    let one = |byte: u8| job(1, vec![tensor("X", Datatype::Uint8, &[1, 2], vec![byte; 2])]);
    let jobs = [one(1), one(2), one(3)];
    let buffers = KeptBuffers::default();
    let mut ahead = JoinedAhead::new(buffers.clone());
    // The memory has room for all rows, as that of the batch before.
    drop(buffers.take(0, 6));
    layout.lay_out(&whole(&jobs[..2]), 0).join_ahead(&mut ahead);
    layout.lay_out(&whole(&jobs[..1]), 0).join_ahead(&mut ahead);
    let first = ahead.columns[0].as_ref().map(|first| first.as_ref().as_ptr()).unwrap();
    let (joined, _) = layout.lay_out(&whole(&jobs), 1).join_rest(ahead);
    assert_eq!(joined[0].data.as_ptr(), first);
    assert_eq!(joined[0].data[..], [1, 1, 2, 2, 3, 3, 0, 0]);
    let memory = joined[0].data.as_ptr();
    drop(joined);
    let (joined, _) = layout.lay_out(&whole(&jobs[..2]), 0).join_rest(JoinedAhead::new(buffers));
    assert_eq!(joined[0].data.as_ptr(), memory, "the next batch uses the same memory");
}
