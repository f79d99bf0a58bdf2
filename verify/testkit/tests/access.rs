//! Passwords of Redis that change under load, and programs that Redis denies.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod steady_load;

use std::{fs, path::PathBuf, time::Duration};

use batchfleet_broker::{
    BatchWish, Broker, QueueName, Wish,
    redis::{RedisAddress, RedisBroker},
};
use batchfleet_testkit::{Fleet, FleetPlan, Program, RedisServer, get, metric};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use self::steady_load::SteadyLoad;

const PATIENCE: Duration = Duration::from_secs(30);

/// A Redis with the user `fleet`, and the file with the URL for this user.
struct Guarded {
    redis: RedisServer,
    folder: TempDir,
}

impl Guarded {
    /// A server whose user `fleet` has the password `old`, which the file contains.
    async fn start() -> Self {
        let redis = RedisServer::start().await;
        let guarded = Self { redis, folder: TempDir::new().unwrap() };
        guarded.acl("on >old ~* &* +@all").await;
        guarded.write("old");
        guarded
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("url")
    }

    /// Writes the file with this password, as Kubernetes does: by a rename.
    fn write(&self, password: &str) {
        let url = format!("redis://fleet:{password}@{}", self.redis.address());
        let fresh = self.folder.path().join("fresh");
        fs::write(&fresh, url).unwrap();
        fs::rename(fresh, self.file()).unwrap();
    }

    async fn acl(&self, rules: &str) {
        let answer = self.redis.ask(&format!("ACL SETUSER fleet {rules}")).await.unwrap();
        assert!(answer.ends_with("+OK\r\n"), "{answer}");
    }

    /// Closes all connections of the fleet.
    async fn close_connections(&self) {
        let answer = self.redis.ask("CLIENT KILL USER fleet").await.unwrap();
        assert!(!answer.ends_with(":0\r\n"), "no connection was open");
    }
}

/// Waits until `/readyz` answers with this status, and a body that contains the text.
async fn until_ready(program: &Program, status: u16, text: &str) {
    let admin = program.address("admin").await.unwrap();
    let asked = timeout(PATIENCE, async {
        loop {
            let (answered, body) = get(&admin, "/readyz").await.unwrap();
            if answered == status && body.contains(text) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    asked.await.unwrap();
}

async fn fleet(guarded: &Guarded) -> Fleet {
    let file = guarded.file();
    let plan = FleetPlan {
        gateways: 2,
        workers: 2,
        batch_ms: 2,
        gateway_flags: &["--unready-after", "1s"],
        worker_flags: &["--unready-after", "1s"],
        redis_url_file: Some(&file),
        ..FleetPlan::default()
    };
    Fleet::start(plan).await.unwrap()
}

#[tokio::test]
async fn a_password_rotates_under_load_without_a_failed_request() {
    let guarded = Guarded::start().await;
    let fleet = fleet(&guarded).await;
    let address = RedisAddress { url_file: Some(guarded.file()), ..RedisAddress::default() };
    let controller = RedisBroker::connect(address).await.unwrap().controller().await.unwrap();
    let wish = Wish { batch: BatchWish::Rows(8), slo_ms: None };
    let queue = QueueName::new("echo", 1);
    controller.publish(&queue, wish).await.unwrap();
    let load = SteadyLoad::start(&fleet, 1);
    load.until_accepted(&fleet, 300.0).await;
    guarded.acl(">new").await;
    guarded.write("new");
    // Every program connects anew while both passwords are valid, and once more after that.
    guarded.close_connections().await;
    load.until_accepted(&fleet, 300.0).await;
    guarded.acl("<old").await;
    guarded.close_connections().await;
    load.until_accepted(&fleet, 300.0).await;
    controller.publish(&queue, wish).await.unwrap();
    let report = load.end_flawless(&fleet).await;
    assert_eq!(report.refusals(), 0, "{report}");
    for program in fleet.gateways.iter().chain(&fleet.workers) {
        let denied = metric(program, "batchfleet_redis_denied_total").await.unwrap();
        assert!(denied < 0.5, "denied {denied} times");
    }
}

#[tokio::test]
async fn a_wrong_password_is_reported_and_the_right_one_is_used_without_a_restart() {
    let guarded = Guarded::start().await;
    let fleet = fleet(&guarded).await;
    guarded.acl("resetpass >new").await;
    guarded.close_connections().await;
    let worker = &fleet.workers[0];
    until_ready(worker, 503, "Redis is out of reach").await;
    let denied = |line: &serde_json::Value| line["message"] == "Redis denied access";
    let line = worker.wait_for_log(denied).await.unwrap();
    let reason = line["reason"].as_str().unwrap();
    let address = guarded.redis.address().to_string();
    for part in [&address, "\"fleet\"", "WRONGPASS", "--redis-url-file"] {
        assert!(reason.contains(part), "{reason}");
    }
    assert!(metric(worker, "batchfleet_redis_denied_total").await.unwrap() > 0.0);
    // No gateway reaches Redis, so none may leave the Service; each says what is wrong.
    until_ready(&fleet.gateways[0], 200, "out of reach of every").await;
    let lines = worker.log().iter().filter(|line| denied(line)).count();
    assert!(lines <= 3, "{lines} lines");
    guarded.write("new");
    for program in fleet.gateways.iter().chain(&fleet.workers) {
        until_ready(program, 200, "\"ready\":true}").await;
    }
    let load = SteadyLoad::start(&fleet, 1);
    load.until_accepted(&fleet, 100.0).await;
    load.end_flawless(&fleet).await;
}

#[tokio::test]
async fn a_program_that_lacks_rights_says_so_and_a_gateway_leaves_its_requests_to_others() {
    let guarded = Guarded::start().await;
    let fleet = fleet(&guarded).await;
    let url = format!("redis://{}", guarded.redis.address());
    let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--redis-url", &url];
    let healthy = Program::named("batchfleet-gateway").unwrap().args(flags).spawn().unwrap();
    until_ready(&healthy, 200, "\"ready\":true}").await;
    guarded.acl("-@write").await;
    until_ready(&fleet.gateways[0], 503, "but not").await;
    until_ready(&fleet.workers[0], 503, "Redis denies commands").await;
    until_ready(&healthy, 200, "\"ready\":true}").await;
    guarded.acl("+@write").await;
    for program in fleet.gateways.iter().chain(&fleet.workers) {
        until_ready(program, 200, "\"ready\":true}").await;
    }
}
