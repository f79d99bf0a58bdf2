//! `batchfleet load` against `batchfleet serve`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{fs, path::Path};

use batchfleet_testkit::{Program, echo_model, get};
use serde_json::Value;
use tempfile::TempDir;

async fn serve(folder: &Path) -> (Program, String) {
    echo_model(folder, &[]).unwrap();
    let flags = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let program = Program::named("batchfleet").unwrap().args(flags);
    let program = program.args(["--model-repository", folder.to_str().unwrap()]).spawn().unwrap();
    let address = program.address("http").await.unwrap();
    while get(&address, "/v2/models/echo/ready").await.unwrap().0 != 200 {
        tokio::task::yield_now().await;
    }
    (program, format!("http://{address}"))
}

/// Exit status and standard error of a load.
async fn load(flags: &[&str]) -> (Option<i32>, Vec<String>) {
    let mut program =
        Program::named("batchfleet").unwrap().args(["load"]).args(flags.to_vec()).spawn().unwrap();
    let status = program.wait().await.unwrap();
    let log = program.log();
    let lines = log.iter().map(|line| line.as_str().unwrap_or_default().to_owned());
    (status.code(), lines.collect())
}

#[tokio::test]
async fn a_load_checks_every_answer_and_writes_its_reports() {
    let folder = TempDir::new().unwrap();
    let (_server, url) = serve(&folder.path().join("models")).await;
    for pace in [&["--users", "7"][..], &["--rate", "500"], &["--format", "json"]] {
        let (json, page) = (folder.path().join("load.json"), folder.path().join("load.html"));
        let (to_json, to_page) = (json.to_str().unwrap(), page.to_str().unwrap());
        let common = ["--url", &url, "--model", "echo", "--warm-up", "0s", "--duration", "300ms"];
        let reports = ["--json", to_json, "--report", to_page, "--honour-retry-after"];
        let (status, complaints) = load(&[&common, pace, &reports].concat()).await;
        assert_eq!(status, Some(0), "{complaints:?}");
        let summary: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        assert!(summary["right"].as_u64().unwrap() > 0, "{summary}");
        assert_eq!((&summary["right"], &summary["wrong"]), (&summary["sent"], &Value::from(0)));
        assert!(fs::read_to_string(&page).unwrap().contains("<svg"));
    }
}

#[tokio::test]
async fn a_load_can_wait_for_the_server() {
    let folder = TempDir::new().unwrap();
    let (mut server, url) = serve(&folder.path().join("models")).await;
    server.kill().await.unwrap();
    let flags = ["load", "--url", &url, "--model", "echo", "--duration", "100ms", "--wait", "60s"];
    let mut early = Program::named("batchfleet").unwrap().args(flags).spawn().unwrap();

    let models = folder.path().join("models");
    let (listen, models) = (url.trim_start_matches("http://"), models.to_str().unwrap());
    let flags = ["serve", "--listen", listen, "--admin-listen", "127.0.0.1:0"];
    let later = Program::named("batchfleet").unwrap().args(flags);
    let _later = later.args(["--model-repository", models]).spawn().unwrap();
    assert!(early.wait().await.unwrap().success(), "{:?}", early.log());

    let unknown = ["--url", &url, "--model", "nobody", "--wait", "1ms"];
    let (status, complaints) = load(&unknown).await;
    assert_eq!((status, complaints.len()), (Some(64), 1), "{complaints:?}");
}

#[tokio::test]
async fn errors_are_reported_in_one_line() {
    let folder = TempDir::new().unwrap();
    let (mut server, url) = serve(&folder.path().join("models")).await;
    let (status, complaints) = load(&["--url", &url, "--model", "nobody"]).await;
    assert_eq!((status, complaints.len()), (Some(64), 1), "{complaints:?}");
    assert!(complaints[0].contains("unknown model: 'nobody'"), "{complaints:?}");

    let (status, complaints) = load(&["--url", "localhost:80", "--model", "echo"]).await;
    assert_eq!((status, complaints.len()), (Some(64), 1), "{complaints:?}");

    server.kill().await.unwrap();
    let (status, complaints) = load(&["--url", &url, "--model", "echo"]).await;
    assert_eq!((status, complaints.len()), (Some(69), 1), "{complaints:?}");
    assert!(complaints[0].contains("cannot connect to"), "{complaints:?}");
}
