//! `batchfleet digest`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{fs, path::Path, process::Command};

/// Exit status and output of `batchfleet digest`.
fn digest(folder: &Path) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_batchfleet");
    let output = Command::new(program).arg("digest").arg(folder).output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code(), text)
}

#[test]
fn each_version_is_printed_as_model_takes_it() {
    let root = tempfile::tempdir().unwrap();
    let version = root.path().join("m/3");
    fs::create_dir_all(&version).unwrap();
    // A model without fields; `sha256sum` prints the same digits.
    fs::write(version.join("model.onnx"), [8, 9]).unwrap();
    let line = "m:3@sha256:73907589101a7e8ab83178e7db2997aab7272cd02d364e8e3ecc2beccda4b631\n";
    for folder in [root.path(), version.parent().unwrap(), &version] {
        assert_eq!(digest(folder), (Some(0), line.to_owned()));
    }
    fs::create_dir(root.path().join("m/4")).unwrap();
    let (status, output) = digest(root.path());
    assert_eq!(status, Some(1));
    assert!(output.starts_with(line) && output.contains("error: model m:4: there is no file"));
}

#[test]
fn a_folder_without_versions_is_a_mistake() {
    let root = tempfile::tempdir().unwrap();
    for folder in [root.path().to_owned(), root.path().join("none")] {
        let (status, output) = digest(&folder);
        assert_eq!(status, Some(64), "{output}");
        assert!(output.starts_with("error: "), "{output}");
    }
}
