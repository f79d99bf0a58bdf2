//! Reads any bytes as a message of gRPC.

#![no_main]

use batchfleet_broker::Datatype;
use batchfleet_fuzz::{check_message, model};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((head, message)) = data.split_first() else { return };
    let datatype = Datatype::ALL[usize::from(*head) % Datatype::ALL.len()];
    check_message(&message.to_vec().into(), &model(&[datatype]));
});
