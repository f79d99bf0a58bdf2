//! Reads any bytes as the body of a JSON request.

#![no_main]

use batchfleet_broker::Datatype;
use batchfleet_fuzz::{check, model};
use batchfleet_oip::infer::HeaderLength;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, body)) = data.split_first() else { return };
    let datatype = Datatype::ALL[usize::from(choice) % Datatype::ALL.len()];
    check(body.to_vec().into(), HeaderLength::Absent, &model(&[datatype]));
});
