//! The wire format: its documented bytes, and invalid input.

use std::time::Duration;

use batchfleet_broker::{
    ClassCount, Datatype, Failure, GatewayId, Job, Offer, OfferKey, Priority, Pushed, Release,
    Reply, ReplyError, RequestId, Tensor, Timing, TraceContext,
    offer::{self, RequestKind},
    wire::{WireError, decode_job, decode_replies, digest, encode_job, encode_replies},
};
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

fn tensor(name: &str, datatype: Datatype, shape: &[u64], data: &'static [u8]) -> Tensor {
    Tensor {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
        data: Bytes::from_static(data),
    }
}

fn job() -> Job {
    Job {
        id: RequestId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100),
        gateway: GatewayId(1),
        attempt: 2,
        priority: Priority::Sheddable,
        ttl: Duration::from_secs(30),
        rows: 1,
        digest: 0x1122_3344_5566_7788,
        inputs: vec![tensor("x", Datatype::Fp32, &[1, 300], b"\x01\x02\x03")],
        outputs: vec!["y".to_owned(), String::new()],
        trace: None,
        classes: Vec::new(),
        offer: None,
    }
}

#[rustfmt::skip]
const JOB: &[u8] = &[
    3,                                                     // version
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,  // id
    1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,        // gateway
    2,                                                     // attempt
    2,                                                     // sheddable
    0x30, 0x75, 0, 0,                                      // time to live: 30000 ms
    1, 0, 0, 0,                                            // rows
    0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,        // digest
    1,                                                     // one input
        1, b'x',                                           //   name
        11,                                                //   FP32
        2, 1, 0xac, 0x02,                                  //   shape [1, 300]
        3, 1, 2, 3,                                        //   data
    2,                                                     // two outputs
        1, b'y',
        0,
];

fn replies() -> Vec<Reply> {
    let timing = Timing {
        queue: Duration::from_nanos(1),
        batch_wait: Duration::from_nanos(2),
        compute_input: Duration::from_nanos(3),
        compute_infer: Duration::from_nanos(128),
        compute_output: Duration::from_nanos(5),
        batch_rows: 6,
        padded_rows: 7,
        release: Some(Release::Drained),
    };
    let answer = Reply {
        id: RequestId(3),
        attempt: 1,
        digest: 9,
        timing,
        outcome: Ok(vec![tensor("y", Datatype::Bytes, &[], b"")]),
        pushed: None,
    };
    let error = ReplyError { failure: Failure::Expired, message: "late".to_owned() };
    let failure = Reply {
        id: RequestId(4),
        attempt: 0,
        digest: 0,
        timing: Timing::default(),
        outcome: Err(error),
        pushed: None,
    };
    vec![answer, failure]
}

#[rustfmt::skip]
const REPLIES: &[u8] = &[
    3,                                                     // version
    2,                                                     // two replies
        3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    //   id
        1,                                                 //   attempt
        9, 0, 0, 0, 0, 0, 0, 0,                            //   digest
        1, 2, 3, 0x80, 0x01, 5, 6, 7,                      //   timing
        2,                                                 //     drained
        0,                                                 //   outputs
        1,                                                 //   one
            1, b'y',                                       //     name
            14,                                            //     BYTES
            0,                                             //     shape []
            0,                                             //     data
        4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0,
        0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0,
        0,                                                 //     never ran
        3,                                                 //   expired
        4, b'l', b'a', b't', b'e',                         //   message
];

#[test]
fn a_job_is_written_as_documented() {
    assert_eq!(encode_job(&job()), JOB);
    assert_eq!(decode_job(Bytes::from_static(JOB)).unwrap(), job());
}

#[test]
fn a_trace_is_at_the_end() {
    let job = Job { trace: TraceContext::new(3, 2), ..job() };
    let mut expected = JOB.to_vec();
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encode_job(&job), expected);
    assert_eq!(decode_job(expected.clone().into()).unwrap(), job);
    expected[JOB.len()] = 0;
    assert_eq!(decode_job(expected.into()), Err(WireError::ZeroId));
}

#[test]
fn classes_follow_the_trace_which_is_0_if_there_is_none() {
    let class = |output: &str, count| ClassCount { output: output.to_owned(), count };
    let job = Job { classes: vec![class("y", 3), class("", 300)], ..job() };
    let mut expected = JOB.to_vec();
    expected.extend([0; 24]);
    expected.extend([2, 1, b'y', 3, 0, 0xac, 0x02]);
    assert_eq!(encode_job(&job), expected);
    assert_eq!(decode_job(expected.into()).unwrap(), job);
    let traced = Job { trace: TraceContext::new(3, 2), ..job };
    assert_eq!(decode_job(encode_job(&traced)).unwrap(), traced);
}

/// The job with its inputs offered, and the same job without the data.
fn offered() -> (Job, Job) {
    let address = ([10, 1, 2, 3], 8090).into();
    let offer = Some(Box::new(Offer { address, key: OfferKey(5), lengths: vec![3] }));
    let job = Job { offer, ..job() };
    let data = Bytes::new();
    let lacking = Job { inputs: vec![Tensor { data, ..job.inputs[0].clone() }], ..job.clone() };
    (job, lacking)
}

#[test]
fn an_offer_is_at_the_end_and_replaces_the_data_of_the_inputs() {
    let (job, lacking) = offered();
    let mut expected = JOB.to_vec();
    let data = JOB.windows(4).rposition(|bytes| bytes == [3, 1, 2, 3]).unwrap();
    expected.splice(data..data + 4, [0]);
    expected.extend([0; 24]);
    expected.push(0);
    expected.push(13);
    expected.extend(b"10.1.2.3:8090");
    expected.extend([5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([1, 3]);
    assert_eq!(encode_job(&job), expected);
    assert_eq!(decode_job(expected.clone().into()).unwrap(), lacking);
    assert!(lacking.lacks_inputs() && !job.lacks_inputs());
    // A job that is handed back before its inputs are fetched stays as it was.
    assert_eq!(encode_job(&lacking), expected);
    let logged = format!("{:?}", OfferKey(777));
    assert!(!logged.contains("777"), "{logged}");
}

#[test]
fn an_offer_without_lengths_leaves_the_data_in_the_job() {
    let (offered, _) = offered();
    let offer = offered.offer.map(|offer| Box::new(Offer { lengths: Vec::new(), ..*offer }));
    let job = Job { offer, ..job() };
    assert_eq!(decode_job(encode_job(&job)).unwrap(), job);
    assert!(!job.lacks_inputs());
}

#[test]
fn an_invalid_offer_is_refused() {
    let (job, lacking) = offered();
    let lengths = Offer { lengths: vec![1, 2], ..*job.offer.clone().unwrap() };
    let job = Job { offer: Some(Box::new(lengths)), ..lacking.clone() };
    assert_eq!(decode_job(encode_job(&job)), Err(WireError::Offer));
    let mut address = encode_job(&lacking).to_vec();
    let at = address.windows(3).position(|bytes| bytes == b"10.").unwrap();
    address[at] = b'x';
    assert_eq!(decode_job(address.into()), Err(WireError::Offer));
}

#[test]
fn requests_of_workers_are_written_as_documented() {
    let id = RequestId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100);
    let item = offer::Item { id, key: OfferKey(5) };
    let mut encoded: Vec<u8> = (0..16).collect();
    encoded.extend([5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let fetch = offer::encode_fetch([item, item].into_iter());
    assert_eq!(fetch, [b"BFT\x01\x02\0", &encoded[..], &encoded[..]].concat());
    let (head, items) = fetch.split_first_chunk().unwrap();
    assert_eq!(offer::decode_head(*head), Some((RequestKind::Fetch, 2)));
    assert_eq!(offer::decode_item(*items.first_chunk().unwrap()), item);

    let push = offer::encode_push([(item, 0x0102_0304)].into_iter());
    let length = [4, 3, 2, 1, 0, 0, 0, 0];
    assert_eq!(push, [b"BFT\x02\x01\0", &encoded[..], &length].concat());
    let (head, items) = push.split_first_chunk().unwrap();
    assert_eq!(offer::decode_head(*head), Some((RequestKind::Push, 1)));
    assert_eq!(offer::decode_pushed_item(*items.first_chunk().unwrap()), (item, 0x0102_0304));

    for wrong in [*b"BFT\x01\0\0", *b"BFT\x01\x01\x04", *b"BFT\x03\x01\0", *b"GET / "] {
        assert_eq!(offer::decode_head(wrong), None, "{wrong:?}");
    }
    let most = (RequestKind::Fetch, offer::MOST_ITEMS);
    assert_eq!(offer::decode_head(*b"BFT\x01\0\x04"), Some(most));
}

#[test]
fn a_reply_says_what_the_gateway_has_of_its_outputs() {
    let [answer, _] = &replies()[..] else { panic!("two replies") };
    let outputs = vec![tensor("y", Datatype::Uint8, &[2], &[7, 8])];
    let pushed = Pushed::of(&outputs);
    let reply =
        Reply { outcome: Ok(outputs.clone()), pushed: Some(pushed.clone()), ..answer.clone() };
    let decoded = decode_replies(encode_replies([&reply])).unwrap().remove(0);
    let lacking = decoded.outcome.unwrap();
    assert_eq!(lacking[0].data.len(), 0);
    assert_eq!(decoded.pushed.as_ref(), Some(&pushed));
    let filled = |data| offer::fill_in(&lacking, &pushed.lengths, Bytes::from_static(data));
    assert_eq!(filled(&[7, 8]), Some(outputs));
    assert_eq!((filled(&[7]), filled(&[7, 8, 9])), (None, None));
    assert_ne!(pushed.digest, offer::data_digest([&[7, 9][..]].into_iter()));
    assert_eq!(pushed.digest, offer::data_digest([&[7][..], &[8]].into_iter()));
}

#[test]
fn replies_are_written_as_documented() {
    assert_eq!(encode_replies(&replies()), REPLIES);
    assert_eq!(decode_replies(Bytes::from_static(REPLIES)).unwrap(), replies());
}

#[test]
fn tensor_data_is_a_slice_of_what_was_received() {
    let received = encode_job(&job());
    let within = received.as_ptr_range();
    let data = &decode_job(received.clone()).unwrap().inputs[0].data;
    assert!(within.contains(&data.as_ptr()));
}

#[test]
fn another_version_is_named() {
    let error = decode_job(Bytes::from_static(&[7, 1, 2])).unwrap_err();
    assert_eq!(error, WireError::Version(7));
    assert!(error.to_string().contains("version 7"));
}

#[test]
fn each_kind_of_damage_has_its_error() {
    let job = |at: usize, byte| {
        let mut bytes = JOB.to_vec();
        bytes[at] = byte;
        decode_job(bytes.into()).unwrap_err()
    };
    assert_eq!(decode_job(Bytes::new()).unwrap_err(), WireError::Truncated);
    let (priority, name, datatype) = (34, 53, 54);
    assert_eq!(job(priority, 3), WireError::Priority(3));
    assert_eq!(job(name, 0xff), WireError::NotText);
    assert_eq!(job(datatype, 99), WireError::Datatype(99));
    let longer = [JOB, &[0, 0]].concat();
    assert_eq!(decode_job(longer.into()).unwrap_err(), WireError::Truncated);
    let longest = [JOB, &[1; 24], &[0, 7, 7]].concat();
    assert_eq!(decode_job(longest.into()).unwrap_err(), WireError::Truncated);
    let longest = [&encode_job(&offered().1)[..], &[7, 7]].concat();
    assert_eq!(decode_job(longest.into()).unwrap_err(), WireError::Trailing(2));
    let mut failure = REPLIES.to_vec();
    failure[REPLIES.len() - 6] = 50;
    assert_eq!(decode_replies(failure.into()).unwrap_err(), WireError::Failure(50));
    let mut release = REPLIES.to_vec();
    release[REPLIES.len() - 7] = 9;
    assert_eq!(decode_replies(release.into()).unwrap_err(), WireError::Release(9));
    let endless = [&JOB[..51], &[0xff; 11]].concat();
    assert_eq!(decode_job(endless.into()).unwrap_err(), WireError::TooLarge);
}

#[test]
fn a_huge_count_reserves_no_memory() {
    let greedy = [&JOB[..51], &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    assert_eq!(decode_job(greedy.into()).unwrap_err(), WireError::Truncated);
}

#[test]
fn a_time_to_live_that_is_too_long_is_cut_not_wrapped() {
    let long = Job { ttl: Duration::MAX, ..job() };
    let read = decode_job(encode_job(&long)).unwrap();
    assert_eq!(read.ttl, Duration::from_millis(u32::MAX.into()));
}

#[test]
fn any_difference_between_inputs_shows_in_the_digest() {
    let inputs = [
        vec![],
        vec![tensor("", Datatype::Uint8, &[], b"")],
        vec![tensor("", Datatype::Uint8, &[], b""), tensor("", Datatype::Uint8, &[], b"")],
        vec![tensor("x", Datatype::Uint8, &[1], b"a")],
        vec![tensor("xa", Datatype::Uint8, &[1], b"")],
        vec![tensor("x", Datatype::Int8, &[1], b"a")],
        vec![tensor("x", Datatype::Uint8, &[1, 1], b"a")],
        vec![tensor("x", Datatype::Uint8, &[2], b"a")],
        vec![tensor("x", Datatype::Uint8, &[1], b"b")],
        vec![tensor("x", Datatype::Uint8, &[1], b"ab")],
        vec![tensor("x", Datatype::Uint8, &[1], b"a"), tensor("y", Datatype::Uint8, &[1], b"b")],
        vec![tensor("y", Datatype::Uint8, &[1], b"b"), tensor("x", Datatype::Uint8, &[1], b"a")],
    ];
    for (i, one) in inputs.iter().enumerate() {
        for other in &inputs[i + 1..] {
            assert_ne!(digest(one), digest(other), "{one:?} and {other:?}");
        }
    }
}

/// Gateways and workers of different builds compare digests, so a digest may not change within a
/// version.
#[test]
fn the_digest_is_xxh3_of_framed_inputs() {
    #[rustfmt::skip]
    let framed = [
        1, 0, 0, 0, 0, 0, 0, 0,                             // one input
        1, 0, 0, 0, 0, 0, 0, 0, b'x',                       // name
        11,                                                 // FP32
        2, 0, 0, 0, 0, 0, 0, 0,                             // shape of two:
        1, 0, 0, 0, 0, 0, 0, 0, 0x2c, 1, 0, 0, 0, 0, 0, 0,  //   [1, 300]
        3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3,                    // data
    ];
    assert_eq!(digest(&job().inputs), xxhash_rust::xxh3::xxh3_64(&framed));
}

fn tensors() -> impl Strategy<Value = Vec<Tensor>> {
    let tensor =
        (".{0,8}", 0..Datatype::ALL.len(), vec(any::<u64>(), 0..4), vec(any::<u8>(), 0..40));
    vec(tensor, 0..4).prop_map(|tensors| {
        let build = |(name, datatype, shape, data): (_, usize, _, Vec<_>)| Tensor {
            name,
            datatype: Datatype::ALL[datatype],
            shape,
            data: data.into(),
        };
        tensors.into_iter().map(build).collect()
    })
}

prop_compose! {
    fn jobs()(
        (id, gateway, digest) in any::<(u128, u128, u64)>(),
        (attempt, ttl, rows) in any::<(u8, u32, u32)>(),
        priority in 0..Priority::ALL.len(),
        inputs in tensors(),
        outputs in vec(".{0,8}", 0..4),
        trace in proptest::option::of(any::<(u128, u64)>()),
        classes in vec((".{0,8}", any::<u32>()), 0..3),
    ) -> Job {
        let (id, gateway) = (RequestId(id), GatewayId(gateway));
        let ttl = Duration::from_millis(ttl.into());
        let priority = Priority::ALL[priority];
        let trace = trace.and_then(|(trace, span)| TraceContext::new(trace, span));
        let class = |(output, count)| ClassCount { output, count };
        let classes = classes.into_iter().map(class).collect();
        Job {
            id, gateway, attempt, priority, ttl, rows, digest, inputs, outputs, trace, classes,
            offer: None,
        }
    }
}

fn outcomes() -> impl Strategy<Value = Result<Vec<Tensor>, ReplyError>> {
    let error = (0..Failure::ALL.len(), ".{0,20}")
        .prop_map(|(i, message)| Err(ReplyError { failure: Failure::ALL[i], message }));
    prop_oneof![tensors().prop_map(Ok), error]
}

prop_compose! {
    fn any_reply()(
        (id, attempt, digest) in any::<(u128, u8, u64)>(),
        parts in any::<[u64; 5]>(),
        (batch_rows, padded_rows) in any::<(u32, u32)>(),
        release in proptest::option::of(0..Release::ALL.len()),
        outcome in outcomes(),
    ) -> Reply {
        let [queue, batch_wait, compute_input, compute_infer, compute_output] =
            parts.map(Duration::from_nanos);
        let timing = Timing {
            queue, batch_wait, compute_input, compute_infer, compute_output, batch_rows, padded_rows,
            release: release.map(|i| Release::ALL[i]),
        };
        Reply { id: RequestId(id), attempt, digest, timing, outcome, pushed: None }
    }
}

proptest! {
    #[test]
    fn any_job_is_decoded_as_it_was(job in jobs()) {
        prop_assert_eq!(decode_job(encode_job(&job)).unwrap(), job);
    }

    #[test]
    fn any_replies_are_decoded_as_they_were(replies in vec(any_reply(), 0..5)) {
        prop_assert_eq!(decode_replies(encode_replies(&replies)).unwrap(), replies);
    }

    #[test]
    fn a_job_cut_anywhere_is_refused(job in jobs(), at in any::<prop::sample::Index>()) {
        let bytes = encode_job(&job);
        let at = at.index(bytes.len());
        let cut = decode_job(bytes.slice(..at));
        // A cut before the classes or the trace leaves the same job without them.
        let without_classes = Job { classes: Vec::new(), ..job };
        let bare = Job { trace: None, ..without_classes.clone() };
        if let Some(rest) = [without_classes, bare].into_iter().find(|job| at == encode_job(job).len()) {
            prop_assert_eq!(cut.unwrap(), rest);
        } else {
            prop_assert!(cut.is_err());
        }
    }

    #[test]
    fn replies_cut_anywhere_are_refused(
        replies in vec(any_reply(), 1..4),
        at in any::<prop::sample::Index>(),
    ) {
        let bytes = encode_replies(&replies);
        let at = at.index(bytes.len());
        prop_assert!(decode_replies(bytes.slice(..at)).is_err());
    }

    /// Decoding a damaged job does not panic. A job that is decoded anyway can be encoded and
    /// decoded without change.
    #[test]
    fn a_damaged_job_never_panics(
        job in jobs(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode_job(&job).to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(read) = decode_job(bytes.into()) {
            prop_assert_eq!(decode_job(encode_job(&read)).unwrap(), read);
        }
    }

    #[test]
    fn damaged_replies_never_panic(
        replies in vec(any_reply(), 0..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode_replies(&replies).to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(read) = decode_replies(bytes.into()) {
            prop_assert_eq!(decode_replies(encode_replies(&read)).unwrap(), read);
        }
    }

    #[test]
    fn noise_never_panics(mut noise in vec(any::<u8>(), 1..300)) {
        noise[0] = 3;
        // Errors and decoded values are both acceptable.
        drop(decode_job(noise.clone().into()));
        drop(decode_replies(noise.into()));
    }
}
