//! Reads any bytes as a job and as replies from Redis, and as a request at the port for workers.

#![no_main]

use batchfleet_broker::{
    offer::{RequestKind, decode_head, decode_item, decode_pushed_item, encode_fetch, encode_push},
    wire::{decode_job, decode_replies, encode_job, encode_replies},
};
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
    let Some((head, items)) = data.split_first_chunk() else { return };
    let Some((kind, count)) = decode_head(*head) else { return };
    let again = match kind {
        RequestKind::Fetch => {
            let items = items.as_chunks().0.iter().take(count);
            encode_fetch(items.copied().map(decode_item))
        }
        RequestKind::Push => {
            let items = items.as_chunks().0.iter().take(count);
            encode_push(items.copied().map(decode_pushed_item))
        }
    };
    let is_complete = decode_head(*again.first_chunk().expect("a head")) == Some((kind, count));
    assert!(!is_complete || data.starts_with(&again));
});
