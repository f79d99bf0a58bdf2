//! Reads any bytes as a request with binary tensors, cut at any offset between JSON and tensors.

#![no_main]

use batchfleet_broker::Datatype;
use batchfleet_fuzz::{check, model};
use batchfleet_oip::infer::HeaderLength;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((head, body)) = data.split_first_chunk::<3>() else { return };
    let first = usize::from(head[0]) % Datatype::ALL.len();
    let second = (first + 1) % Datatype::ALL.len();
    let datatypes = [Datatype::ALL[first], Datatype::ALL[second]];
    let length = usize::from(u16::from_le_bytes([head[1], head[2]]));
    let body = body.to_vec();
    if length == 0 {
        check(body.into(), HeaderLength::Raw, &model(&datatypes[..1]));
    } else {
        check(body.into(), HeaderLength::Json(length), &model(&datatypes));
    }
});
