//! What a worker or a gateway may find in Redis: any bytes.

#![no_main]

use batchfleet_broker::wire::{decode_job, decode_replies, encode_job, encode_replies};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(job) = decode_job(bytes.clone()) {
        assert_eq!(decode_job(encode_job(&job)).expect("what was written reads back"), job);
    }
    if let Ok(replies) = decode_replies(bytes) {
        let again = decode_replies(encode_replies(&replies)).expect("what was written reads back");
        assert_eq!(again, replies);
    }
});
