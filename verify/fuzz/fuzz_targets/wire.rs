//! Reads any bytes as a job and as replies from Redis.

#![no_main]

use batchfleet_broker::wire::{decode_job, decode_replies, encode_job, encode_replies};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(job) = decode_job(bytes.clone()) {
        assert_eq!(decode_job(encode_job(&job)).expect("an encoded job decodes"), job);
    }
    if let Ok(replies) = decode_replies(bytes) {
        let again = decode_replies(encode_replies(&replies)).expect("encoded replies decode");
        assert_eq!(again, replies);
    }
});
