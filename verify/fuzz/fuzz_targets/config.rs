//! Reads any text as a model's `config.pbtxt`.

#![no_main]

use batchfleet_worker::check_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = check_config(text) {
        let lines = text.lines().count().max(1);
        assert!((1..=lines + 1).contains(&error.line), "{error}, of {lines} lines");
    }
});
