//! Reads any text as the command line of a gateway, one argument per line.

#![no_main]

use std::time::{Duration, Instant};

use batchfleet_gateway::Settings;
use clap::Parser;
use libfuzzer_sys::fuzz_target;

/// Parses and checks settings as the gateway does. The sum of the accepted times must not overflow.
fn check(text: &str) {
    let arguments = std::iter::once("gateway").chain(text.lines());
    let Ok(Settings { gateway, .. }) = Settings::try_parse_from(arguments) else { return };
    if gateway.check().is_err() {
        return;
    }
    let times = [gateway.max_deadline, gateway.lame_duck, gateway.body_timeout];
    let sum: Option<Duration> = times.into_iter().try_fold(Duration::ZERO, Duration::checked_add);
    assert!(sum.and_then(|sum| Instant::now().checked_add(sum)).is_some(), "{times:?}");
    assert!(gateway.deadline <= gateway.max_deadline);
}

fuzz_target!(|text: &str| check(text));
