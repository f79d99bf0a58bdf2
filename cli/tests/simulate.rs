//! `batchfleet simulate`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{fs, process::Command};

/// Exit status and output of `batchfleet simulate`.
fn simulate(arguments: &[&str]) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_batchfleet");
    let output = Command::new(program).arg("simulate").args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code(), text)
}

#[test]
fn the_report_ends_with_the_number_of_workers() {
    // With batches of 8 + 2b ms one worker runs 413 rows per second within the target, and two
    // workers run 851, at a utilization of 88 %.
    for (rate, answer) in [("300", "You need 1.\n"), ("500", "You need 2.\n")] {
        let (status, output) = simulate(&[
            "--curve",
            "8+2b",
            "--rate",
            rate,
            "--duration",
            "2m",
            "--cold-start",
            "5s",
        ]);
        assert_eq!(status, Some(0), "{output}");
        assert!(output.ends_with(answer), "{rate}: {output}");
    }
}

#[test]
fn a_recorded_load_is_simulated_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let (load, drawing) = (folder.path().join("load.csv"), folder.path().join("load.svg"));
    fs::write(&load, "# seconds, requests per second\n0,100\n60,1000\n120,100\n").unwrap();
    let (load, svg) = (load.to_str().unwrap(), drawing.to_str().unwrap());
    let (status, output) =
        simulate(&["--curve=1=10,64=136", "--arrivals", load, "--workers", "3", "--svg", svg]);
    assert_eq!(status, Some(0), "{output}");
    assert!(output.contains(" requests in 3m\n"), "{output}");
    assert!(fs::read_to_string(&drawing).unwrap().starts_with("<svg "));
}

#[test]
fn scaling_with_a_trend_misses_fewer_requests_of_a_rising_load() {
    let ramp = ["--curve", "8+2b", "--load", "ramp", "--rate", "100", "--peak", "1500"];
    let missed = |more: &[&str]| -> f64 {
        let (_, output) = simulate(&[&ramp[..], &["--duration", "20m"], more].concat());
        let line = output.lines().find(|line| line.starts_with("scaled to the load")).unwrap();
        let (before, _) = line.split_once(" %").unwrap();
        before.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (late, early) = (missed(&[]), missed(&["--trend"]));
    assert!(early < 0.75 * late, "{early} % and {late} %");
}

/// A model whose rows cost time by their length.
const TEXTS: [&str; 10] = [
    "--curve",
    "4+0.05b",
    "--position-ms",
    "0.02",
    "--rate",
    "400",
    "--duration",
    "1m",
    "--workers",
    "2",
];

#[test]
fn padding_lets_requests_of_different_lengths_share_batches() {
    let with = |more: &[&str]| {
        let lengths = ["--lengths", "lognormal:55,0.8,4-512"];
        let (status, output) = simulate(&[&TEXTS[..], &lengths, more].concat());
        assert_eq!(status, Some(0), "{output}");
        output
    };
    let capacity = |output: &str| -> f64 {
        let (_, rate) = output.split_once("2 workers: up to ").unwrap();
        rate.split_once("/s").unwrap().0.parse().unwrap()
    };
    let (padded, not_padded) = (with(&[]), with(&["--no-padding"]));
    let lengths = "Lengths: lognormal, median 55, \u{3c3} 0.8, 4 to 512; padded to run together\n";
    assert!(padded.contains(lengths), "{padded}");
    assert!(not_padded.ends_with(" Padding: 0.00 % of what ran.\n"), "{not_padded}");
    assert!(capacity(&padded) > 1.5 * capacity(&not_padded), "{padded}\n{not_padded}");
}

#[test]
fn lengths_of_a_file_are_simulated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lengths");
    fs::write(&file, "16\n128\n").unwrap();
    let (status, output) = simulate(&[&TEXTS[..], &["--lengths", file.to_str().unwrap()]].concat());
    assert_eq!(status, Some(0), "{output}");
    assert!(output.contains(" Padding: "), "{output}");
    for (lengths, status) in [("lognormal:55", 64), ("/nowhere", 1)] {
        let (ended, output) = simulate(&[&TEXTS[..], &["--lengths", lengths]].concat());
        assert_eq!((ended, output.lines().count()), (Some(status), 1), "{output}");
    }
}

#[test]
fn an_infeasible_target_is_reported() {
    let (status, output) =
        simulate(&["--curve", "60+10.7b", "--slo", "50ms", "--rate", "10", "--duration", "1m"]);
    assert_eq!(status, Some(0), "{output}");
    assert!(output.contains("One request alone takes 70ms 700us: raise --slo"), "{output}");
}

#[test]
fn errors_are_reported_in_one_line() {
    let (status, output) = simulate(&["--curve", "fast"]);
    assert_eq!(status, Some(64), "{output}");
    assert_eq!(output.lines().count(), 1, "{output}");
    let (status, output) = simulate(&["--curve", "8+2b", "--duration", "0s"]);
    assert_eq!((status, output.lines().count()), (Some(64), 1), "{output}");
    let (status, output) = simulate(&["--curve", "8+2b", "--arrivals", "/nowhere.csv"]);
    assert_eq!(status, Some(1), "{output}");
    assert!(output.starts_with("error: cannot read /nowhere.csv: "), "{output}");
}
