//! HTTPS, client certificates, tokens and API keys with real programs, also while they are replaced.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "prints the report of the load")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use batchfleet_loadgen::{
    Echo, HttpAnswer, Length, LoadError, LoadPlan, Prepared, Report, Stop, Target, TlsTrust,
    Workload, infer::Encoding, run,
};
use batchfleet_testkit::{Certificates, Fleet, FleetPlan, Program, TokenIssuer, metric};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// The SHA-256 of the API keys "secret" and "other".
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
const OTHER: &str = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa";
const ISSUER: &str = "https://id.example";
const DENIED: &str = "batchfleet_gateway_denied_total";

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The flags of a gateway with this certificate.
fn tls_flags(certificates: &Certificates) -> Vec<String> {
    ["--tls-cert", &text(&certificates.certificate()), "--tls-key", &text(&certificates.key())]
        .map(str::to_owned)
        .to_vec()
}

async fn fleet(flags: &[String]) -> Fleet {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Fleet::start(FleetPlan { gateway_flags: &flags, ..FleetPlan::default() }).await.unwrap()
}

fn echo() -> Echo {
    Echo::new("echo", "INPUT0", 1, 32, Encoding::Binary).unwrap()
}

/// Sends ten requests.
async fn ten(target: &Target) -> Result<Report, LoadError> {
    run(LoadPlan::new(target.clone(), Arc::new(echo()), 10)).await
}

/// The claims of a token for `name`, valid for ten minutes.
fn claims(name: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({ "iss": ISSUER, "aud": "batchfleet", "sub": name, "exp": now + 600 })
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

fn key_set(issuers: &[&TokenIssuer]) -> String {
    let keys: Vec<_> = issuers.iter().map(|issuer| issuer.public_key()).collect();
    json!({ "keys": keys }).to_string()
}

#[tokio::test]
async fn a_certificate_names_the_client_and_a_foreign_one_is_refused() {
    let (certificates, foreign) = (Certificates::new().unwrap(), Certificates::new().unwrap());
    let mut flags = tls_flags(&certificates);
    flags.extend(["--tls-client-ca".to_owned(), text(&certificates.ca())]);
    let fleet = fleet(&flags).await;
    let (server, ca) = (&fleet.targets()[0], certificates.ca());
    let with = |identity: Option<&(PathBuf, PathBuf)>| {
        let identity = identity.map(|(certificate, key)| (&**certificate, &**key));
        let target: Target = server.parse().unwrap();
        target.trusting(&TlsTrust { ca: Some(&ca), identity }).unwrap()
    };
    let named = certificates.client("trainer").unwrap();
    assert_eq!(ten(&with(Some(&named))).await.unwrap().right, 10);

    let anonymous = ten(&with(None)).await.unwrap();
    assert_eq!((anonymous.right, anonymous.sent), (0, 10), "{anonymous}");
    assert!(metric(&fleet.gateways[0], DENIED).await.unwrap() > 9.0);

    let unknown = foreign.client("trainer").unwrap();
    // With TLS 1.3, the client learns of the refusal from its first read.
    let refused = ten(&with(Some(&unknown))).await;
    assert!(refused.is_err() || refused.is_ok_and(|report| report.right == 0));
    let failures = "batchfleet_gateway_tls_handshake_failures_total";
    assert!(metric(&fleet.gateways[0], failures).await.unwrap() > 0.0);

    let untrusted: Target = server.parse().unwrap();
    assert!(ten(&untrusted).await.is_err(), "the system does not know the authority");
    let plain: Target = server.replace("https", "http").parse().unwrap();
    assert_eq!(ten(&plain).await.unwrap().right, 0);
    let ends = "batchfleet_gateway_certificate_expiry_timestamp_seconds";
    assert!(metric(&fleet.gateways[0], ends).await.unwrap() > 1e9);
}

#[tokio::test]
async fn a_certificate_names_the_client_over_grpc_too() {
    let certificates = Certificates::new().unwrap();
    let mut flags = tls_flags(&certificates);
    flags.extend(["--tls-client-ca".to_owned(), text(&certificates.ca())]);
    flags.extend(["--grpc-listen".to_owned(), "127.0.0.1:0".to_owned()]);
    let fleet = fleet(&flags).await;
    let address = fleet.gateways[0].address("grpc").await.unwrap();
    let ten = async |identity: Option<(PathBuf, PathBuf)>| {
        let identity =
            identity.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
        let target: Target = format!("https://{address}").parse().unwrap();
        let trust = TlsTrust { ca: Some(&certificates.ca()), identity };
        let target = target.trusting(&trust).unwrap().over_grpc();
        let echo = Echo::new("echo", "INPUT0", 1, 32, Encoding::Grpc).unwrap();
        run(LoadPlan::new(target, Arc::new(echo), 10)).await.unwrap()
    };
    let named = certificates.client("trainer").unwrap();
    assert_eq!(ten(Some(named)).await.right, 10);
    let anonymous = ten(None).await;
    assert_eq!((anonymous.right, anonymous.sent), (0, 10), "{anonymous}");
    // Counts requests of known clients only.
    let requests = "batchfleet_gateway_usage_requests_total";
    assert!(metric(&fleet.gateways[0], requests).await.unwrap() > 9.0);
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_is_closed_and_others_are_served() {
    let certificates = Certificates::new().unwrap();
    let fleet = fleet(&tls_flags(&certificates)).await;
    let address = fleet.targets()[0].trim_start_matches("https://");
    let mut stalled = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The head of a record of 512 bytes, which never come.
        stream.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
        stalled.push(stream);
    }
    let ca = certificates.ca();
    let target: Target = fleet.targets()[0].parse().unwrap();
    let target = target.trusting(&TlsTrust { ca: Some(&ca), identity: None }).unwrap();
    assert_eq!(ten(&target).await.unwrap().right, 10);
    for mut stream in stalled {
        let closed = timeout(Duration::from_secs(20), stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "still open");
    }
    let failures = "batchfleet_gateway_tls_handshake_failures_total";
    assert!(metric(&fleet.gateways[0], failures).await.unwrap() > 99.0);
}

/// Serves the files of a folder by the last part of the path. Returns the URL without a path.
async fn serve_files(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            // An error means that the gateway has closed the connection.
            let read = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]);
            let path = request.split(' ').nth(1).unwrap_or("/");
            let name = path.rsplit('/').next().unwrap_or_default();
            let body = fs::read_to_string(folder.join(name)).unwrap_or_default();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", body.len());
            let answer = format!("{head}connection: close\r\n\r\n{body}");
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    url
}

#[tokio::test]
async fn tokens_are_verified_with_keys_from_a_url_that_may_come_later() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys");
    let url = serve_files(folder.path().to_owned()).await + "/keys";
    let flags = ["--jwt-issuer", ISSUER, "--jwt-audience", "batchfleet", "--jwt-jwks-url", &url];
    let fleet = fleet(&flags.map(str::to_owned)).await;
    let (old, new) = (TokenIssuer::new("old").unwrap(), TokenIssuer::new("new").unwrap());
    let with = |issuer: &TokenIssuer| {
        let target: Target = fleet.targets()[0].parse().unwrap();
        target.with_header(&bearer(&issuer.token(&claims("alice")).unwrap())).unwrap()
    };
    let early = ten(&with(&old)).await.unwrap();
    assert_eq!(early.right, 0, "the keys were not readable: {early}");
    fs::write(&file, key_set(&[&old])).unwrap();
    let reloaded = |line: &Value| line["message"] == "reloaded token keys";
    fleet.gateways[0].wait_for_log(reloaded).await.unwrap();
    assert_eq!(ten(&with(&old)).await.unwrap().right, 10);
    // The gateway reads the keys again when it sees the new one.
    fs::write(&file, key_set(&[&old, &new])).unwrap();
    assert_eq!(ten(&with(&new)).await.unwrap().right, 10);
}

#[tokio::test]
async fn the_keys_of_an_issuer_are_found_in_its_metadata_also_after_they_moved() {
    let folder = TempDir::new().unwrap();
    let issuer_url = serve_files(folder.path().to_owned()).await;
    let publish = |issuer: &str, name: &str, signer: &TokenIssuer| {
        fs::write(folder.path().join(name), key_set(&[signer])).unwrap();
        let metadata =
            json!({ "issuer": issuer, "jwks_uri": format!("{issuer_url}/moved/{name}") });
        fs::write(folder.path().join("openid-configuration"), metadata.to_string()).unwrap();
    };
    let [first, second, foreign] = ["1", "2", "3"].map(|key_id| TokenIssuer::new(key_id).unwrap());
    publish(&issuer_url, "keys", &first);
    let flags = ["--jwt-issuer", &issuer_url, "--jwt-audience", "batchfleet"];
    let fleet = fleet(&flags.map(str::to_owned)).await;
    let right = async |issuer: &TokenIssuer| {
        let mut claims = claims("alice");
        claims["iss"] = json!(issuer_url);
        let target: Target = fleet.targets()[0].parse().unwrap();
        let token = issuer.token(&claims).unwrap();
        ten(&target.with_header(&bearer(&token)).unwrap()).await.unwrap().right
    };
    assert_eq!(right(&first).await, 10);
    publish(&issuer_url, "other-keys", &second);
    assert_eq!(right(&second).await, 10);
    // Metadata of another issuer change nothing.
    publish("http://127.0.0.1:1", "foreign-keys", &foreign);
    assert_eq!(right(&foreign).await, 0);
    assert_eq!(right(&second).await, 10);
}

/// What the next requests present.
struct Credentials {
    key: String,
    token: String,
}

/// Requests to the echo that present an API key and a token in turn, each on a connection of its own.
struct Rotating {
    echo: Echo,
    credentials: Arc<RwLock<Credentials>>,
}

impl Workload for Rotating {
    fn request(&self, index: u64) -> Prepared {
        let mut request = self.echo.request(index);
        let credentials = self.credentials.read().unwrap();
        let (name, value) = match index % 2 {
            0 => ("x-api-key", credentials.key.clone()),
            _ => ("authorization", format!("Bearer {}", credentials.token)),
        };
        request.headers.insert(name, value.parse().unwrap());
        request.headers.insert("connection", "close".parse().unwrap());
        request
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        self.echo.check(index, answer)
    }
}

/// A gateway whose credentials are replaced under load.
struct Rotation {
    fleet: Fleet,
    certificates: Certificates,
    folder: TempDir,
    credentials: Arc<RwLock<Credentials>>,
    stop: Stop,
    running: JoinHandle<Report>,
}

impl Rotation {
    async fn start(issuer: &TokenIssuer) -> Self {
        let (certificates, folder) = (Certificates::new().unwrap(), TempDir::new().unwrap());
        let file = |name: &str| text(&folder.path().join(name));
        fs::write(file("keys"), format!("{SECRET} alice\n")).unwrap();
        fs::write(file("jwks"), key_set(&[issuer])).unwrap();
        let mut flags = tls_flags(&certificates);
        let tokens = ["--jwt-issuer", ISSUER, "--jwt-audience", "batchfleet"];
        let files = ["--api-keys", &file("keys"), "--jwt-jwks-file", &file("jwks")];
        flags.extend(tokens.iter().chain(&files).map(|flag| (*flag).to_owned()));
        let fleet = fleet(&flags).await;
        // The keys are read a moment after the start.
        let read = |line: &Value| line["message"] == "reloaded token keys";
        fleet.gateways[0].wait_for_log(read).await.unwrap();
        let credentials = Arc::new(RwLock::new(Credentials {
            key: "secret".to_owned(),
            token: issuer.token(&claims("alice")).unwrap(),
        }));
        let ca = certificates.ca();
        let target: Target = fleet.targets()[0].parse().unwrap();
        let target = target.trusting(&TlsTrust { ca: Some(&ca), identity: None }).unwrap();
        let workload = Rotating { echo: echo(), credentials: credentials.clone() };
        let length = Length::Time(Duration::from_mins(2));
        let plan = LoadPlan { users: 8, length, ..LoadPlan::new(target, Arc::new(workload), 0) };
        let stop = plan.stop.clone();
        let running = tokio::spawn(async move { run(plan).await.unwrap() });
        Self { fleet, certificates, folder, credentials, stop, running }
    }

    fn gateway(&self) -> &Program {
        &self.fleet.gateways[0]
    }

    fn write(&self, name: &str, content: &str) {
        // In one step, as Kubernetes replaces the files of a secret.
        let (path, partial) = (self.folder.path().join(name), self.folder.path().join("partial"));
        fs::write(&partial, content).unwrap();
        fs::rename(partial, path).unwrap();
    }

    /// Waits for the `count`th log line of this message.
    async fn logged(&self, message: &str, count: usize) {
        while self.gateway().log().iter().filter(|line| line["message"] == message).count() < count
        {
            assert!(!self.running.is_finished(), "the load has ended before {message:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the gateway has accepted this many more requests.
    async fn accepts(&self, more: f64) {
        let accepted = || metric(self.gateway(), "batchfleet_gateway_accepted_total");
        let enough = accepted().await.unwrap() + more;
        while accepted().await.unwrap() < enough {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_rotation_of_certificate_token_keys_and_api_keys_under_load_fails_no_request() {
    let (old, new) = (TokenIssuer::new("old").unwrap(), TokenIssuer::new("new").unwrap());
    let rotation = Rotation::start(&old).await;
    rotation.accepts(100.0).await;

    rotation.certificates.renew_certificate().unwrap();
    rotation.logged("reloaded TLS certificates", 1).await;
    rotation.accepts(100.0).await;

    rotation.write("keys", &format!("{SECRET} alice\n{OTHER} alice\n"));
    rotation.logged("reloaded API keys", 1).await;
    rotation.credentials.write().unwrap().key = "other".to_owned();
    rotation.accepts(100.0).await;
    rotation.write("keys", &format!("{OTHER} alice\n"));
    rotation.logged("reloaded API keys", 2).await;

    // The issuer signs with its new key as soon as it has published the key.
    rotation.write("jwks", &key_set(&[&old, &new]));
    rotation.credentials.write().unwrap().token = new.token(&claims("alice")).unwrap();
    rotation.accepts(100.0).await;
    rotation.write("jwks", &key_set(&[&new]));
    rotation.logged("reloaded token keys", 3).await;
    rotation.accepts(100.0).await;

    rotation.stop.now();
    let denied = metric(rotation.gateway(), DENIED).await.unwrap();
    let report = rotation.running.await.unwrap();
    println!("{report}");
    assert!(report.is_flawless() && report.right >= 500, "{report}");
    assert!(denied < 0.5, "{denied} requests were denied");
    let ca = rotation.certificates.ca();
    let server: Target = rotation.fleet.targets()[0].parse().unwrap();
    let server = server.trusting(&TlsTrust { ca: Some(&ca), identity: None }).unwrap();
    for outdated in [bearer(&old.token(&claims("alice")).unwrap()), "x-api-key: secret".to_owned()]
    {
        let report = ten(&server.clone().with_header(&outdated).unwrap()).await.unwrap();
        assert_eq!(report.right, 0, "{outdated} is still accepted");
    }
}
