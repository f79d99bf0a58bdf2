//! A worker whose disk is full while it downloads a model.

#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

use std::{fs, process::Command};

use batchfleet_testkit::{Program, RedisServer};
use serde_json::Value;
use tempfile::TempDir;

/// Mounts a file system of 64 KiB at `$1`, in a mount namespace of its own, and runs the other
/// arguments.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o size=64k tmpfs "$1" && shift && exec "$@""#;

fn on_a_small_disk(folder: &str) -> [&str; 7] {
    ["--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh", folder]
}

#[tokio::test]
async fn a_full_disk_ends_the_worker_with_the_file_and_the_setting() {
    let (cache, store) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let disk = cache.path().to_str().unwrap();
    let probe = Command::new("unshare").args(on_a_small_disk(disk)).arg("true").output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("SKIPPED: this machine lets no test mount a file system");
        return;
    }
    let version = store.path().join("echo/1");
    fs::create_dir_all(&version).unwrap();
    fs::write(version.join("model.onnx"), vec![7; 1 << 20]).unwrap();
    let redis = RedisServer::start().await;
    let (url, repository) = (redis.url(), format!("file://{}", store.path().display()));
    let worker =
        Program::path("batchfleet-worker").unwrap().into_os_string().into_string().unwrap();
    let settings = [&worker, "--redis-url", &url, "--model-repository", &repository];
    let more = ["--model-cache", disk, "--admin-listen", "127.0.0.1:0"];
    let command = [&on_a_small_disk(disk)[..], &settings, &more].concat();
    let mut worker = Program::at("unshare").args(command).spawn().unwrap();
    let is_named = |line: &Value| {
        let line = line.to_string();
        ["No space left on device", "model.onnx", "--model-cache"]
            .iter()
            .all(|it| line.contains(it))
    };
    worker.wait_for_log(is_named).await.unwrap();
    assert!(!worker.exit().await.unwrap().success());
}
