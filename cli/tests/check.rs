//! `batchfleet check`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{fs, path::Path, process::Command};

use batchfleet_testkit::named_echo_model;

/// Exit status, output and errors of `batchfleet check`.
fn check(folder: &Path, flags: &[&str]) -> (Option<i32>, String, String) {
    let program = env!("CARGO_BIN_EXE_batchfleet");
    let output = Command::new(program).arg("check").arg(folder).args(flags).output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), stdout, stderr)
}

#[test]
fn the_report_on_a_model_has_its_times_and_how_its_lengths_run() {
    let root = tempfile::tempdir().unwrap();
    let parameters =
        [("batch_ms", "2"), ("length_us", "5"), ("pad", "INPUT0:1=0"), ("cut", "OUTPUT0:1")];
    named_echo_model(root.path(), "texts", 16, &parameters).unwrap();
    named_echo_model(root.path(), "plain", 16, &parameters[..2]).unwrap();
    let (status, texts, errors) = check(&root.path().join("texts"), &[]);
    assert_eq!((status, &*errors), (Some(0), ""), "{texts}");
    assert!(texts.starts_with("texts:1: loaded, checked and timed\n"), "{texts}");
    for line in [
        "input      INPUT0 UINT8 [-1, -1]",
        "batches    up to 16 rows; N = ",
        "padding    requests of different lengths run together, padded",
        "lengths    times below are of rows of length ",
        "capacity ",
    ] {
        assert!(texts.contains(line), "{line:?} is missing in {texts}");
    }
    let (status, both, _) = check(root.path(), &["--max-batch", "8"]);
    assert_eq!(status, Some(0));
    assert!(both.contains("plain:1: loaded") && both.contains("texts:1: loaded"), "{both}");
    assert!(both.contains("padding    none: only requests of the same length run together"));
}

#[test]
fn a_model_that_cannot_be_served_is_an_error_with_its_reason() {
    let root = tempfile::tempdir().unwrap();
    named_echo_model(root.path(), "texts", 16, &[("cut", "OUTPUT0:1")]).unwrap();
    let (status, report, errors) = check(root.path(), &[]);
    assert_eq!((status, &*report), (Some(64), ""), "{errors}");
    assert!(errors.contains("the parameter cut needs the parameter pad"), "{errors}");
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_ne!(check(&empty, &[]).0, Some(0));
}
