//! Output and downloads that find a full disk, and output whose reader has left.

#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

use std::{
    fs::{self, File},
    io::pipe,
    process::Command,
};

use batchfleet_testkit::Program;
use tempfile::TempDir;

/// Mounts a file system of 64 KiB at `$1`, in a mount namespace of its own, and runs the other
/// arguments.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o size=64k tmpfs "$1" && shift && exec "$@""#;

fn on_a_small_disk(folder: &str) -> [&str; 7] {
    ["--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh", folder]
}

#[test]
fn a_full_disk_ends_the_worker_with_the_file_and_the_setting() {
    let (cache, store) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let disk = cache.path().to_str().unwrap();
    let on_disk = |command: &[&str]| {
        let all = [&on_a_small_disk(disk), command].concat();
        Command::new("timeout").args(["60", "unshare"]).args(all).output().unwrap()
    };
    if !on_disk(&["true"]).status.success() {
        println!("SKIPPED: this machine lets no test mount a file system");
        return;
    }
    let version = store.path().join("echo/1");
    fs::create_dir_all(&version).unwrap();
    fs::write(version.join("model.onnx"), vec![7; 1 << 20]).unwrap();
    let worker = Program::path("batchfleet-worker").unwrap();
    let repository = format!("file://{}", store.path().display());
    let settings = ["--model-repository", &repository, "--model-cache", disk];
    let start = [worker.to_str().unwrap(), "--admin-listen", "127.0.0.1:0"];
    let ended = on_disk(&[&start[..], &settings].concat());
    let error = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(64), "{error}");
    for part in ["error: cannot write", "model.onnx: No space left on device", "--model-cache"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_tool_whose_output_is_lost_fails_and_one_whose_reader_has_left_does_not() {
    let tool = || {
        let mut tool = Command::new(Program::path("batchfleet").unwrap());
        tool.args(["redis-acl", "resnet"]);
        tool
    };
    let full = File::options().write(true).open("/dev/full").unwrap();
    let failed = tool().stdout(full).output().unwrap();
    let complaint = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(failed.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("cannot write the output"), "{complaint}");
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let ended = tool().stdout(writer).output().unwrap();
    let complaint = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success() && complaint.is_empty(), "{complaint}");
}
