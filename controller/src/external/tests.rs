use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
};

use actix_web::{
    App,
    body::to_bytes,
    test::{TestRequest, call_service, init_service},
};
use batchfleet_broker::{
    Broker, GatewayId, Job, Priority, RequestId, WorkerId, memory::MemoryBroker,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::*;
use crate::{
    certificates::{Authority, Issued, Party},
    crd::ModelFleet,
    decide::FleetSize,
    fake::FakeApi,
    objects::{FleetObjects, WorkerDefaults, WorkerRedis},
    sample,
};

const ROOT: &str = "/apis/external.metrics.k8s.io/v1beta1";

fn queue(version: u64) -> QueueName {
    QueueName::new("digits", version)
}

/// A broker with two versions of a model, 3 jobs waiting for the first and none for the second.
async fn broker() -> MemoryBroker {
    let broker = MemoryBroker::new(10);
    let producer = broker.gateway(GatewayId(1)).await.unwrap().producer;
    for version in [1, 2] {
        let announcement = sample::unmeasured(version.into(), queue(version));
        let worker = broker.worker(queue(version), WorkerId(version.into())).await.unwrap();
        worker.consumer.renew(&announcement).await.unwrap();
    }
    for _ in 0..3 {
        let job = Job {
            id: RequestId::random(),
            gateway: GatewayId(1),
            attempt: 0,
            priority: Priority::Default,
            ttl: std::time::Duration::from_mins(1),
            rows: 1,
            digest: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
            trace: None,
            classes: Vec::new(),
            offer: None,
        };
        producer.submit(&queue(1), &job).await.unwrap();
    }
    broker
}

async fn source() -> DepthSource {
    let observer = broker().await.observer().await.unwrap();
    let snapshots = Arc::new(Snapshots::new(observer.clone()));
    DepthSource { snapshots, observer, namespace: "ml".to_owned() }
}

async fn ask(path: &str) -> (u16, Value) {
    let app = App::new().app_data(Data::new(source().await)).configure(routes);
    let app = init_service(app).await;
    let answer = call_service(&app, TestRequest::get().uri(path).to_request()).await;
    let status = answer.status().as_u16();
    let body = to_bytes(answer.into_body()).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

/// The depths in a response, by version.
fn depths(answer: &Value) -> Vec<(&str, &str)> {
    let items = answer["items"].as_array().unwrap().iter();
    items
        .map(|item| {
            let version = item["metricLabels"]["version"].as_str().unwrap();
            (version, item["value"].as_str().unwrap())
        })
        .collect()
}

#[actix_web::test]
async fn the_api_server_finds_the_group_its_version_and_the_metric() {
    let (status, group) = ask("/apis/external.metrics.k8s.io").await;
    assert_eq!((status, &group["preferredVersion"]["version"]), (200, &json!("v1beta1")));
    let (status, resources) = ask(ROOT).await;
    assert_eq!((status, &resources["kind"]), (200, &json!("APIResourceList")));
    let metric = &resources["resources"][0];
    assert_eq!(
        (&metric["name"], &metric["kind"], &metric["namespaced"]),
        (&json!("batchfleet_queue_depth"), &json!("ExternalMetricValueList"), &json!(true))
    );
}

#[actix_web::test]
async fn a_depth_has_the_form_that_autoscalers_read_and_zero_is_included() {
    let (status, answer) = ask(&format!("{ROOT}/namespaces/ml/batchfleet_queue_depth")).await;
    assert_eq!((status, &answer["kind"]), (200, &json!("ExternalMetricValueList")));
    assert_eq!(answer["apiVersion"], "external.metrics.k8s.io/v1beta1");
    assert_eq!(depths(&answer), [("1", "3"), ("2", "0")]);
    let timestamp = answer["items"][0]["timestamp"].as_str().unwrap();
    assert!(timestamp.parse::<Timestamp>().is_ok(), "{timestamp}");
    assert_eq!(answer["items"][0]["metricName"], "batchfleet_queue_depth");
}

#[actix_web::test]
async fn the_autoscaler_of_a_fleet_requests_a_metric_that_is_served() {
    for (version, expected) in [(None, vec![("1", "3"), ("2", "0")]), (Some(2), vec![("2", "0")])] {
        let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
        let fleet: ModelFleet = serde_json::from_value(json!({
            "apiVersion": "batchfleet.dev/v1alpha1",
            "kind": "ModelFleet",
            "metadata": {"name": "digits", "namespace": "ml"},
            "spec": {"model": {"source": source, "version": version}},
        }))
        .unwrap();
        let redis = WorkerRedis::Url(String::new());
        let defaults = WorkerDefaults {
            image: String::new(),
            redis,
            redis_tls: None,
            redises: None,
            workers_per_shard: None,
            user: Some(65_532),
            trace_endpoint: None,
            monitor_labels: std::collections::BTreeMap::new(),
            monitor_interval: None,
        };
        let size = FleetSize { floor: 1, depth_per_worker: 128, may_grow: true };
        let autoscaler = FleetObjects::of(&fleet, size, &defaults).autoscaler.unwrap();
        let metric = &autoscaler.spec.unwrap().metrics.unwrap()[0];
        let metric = metric.external.as_ref().unwrap().metric.clone();
        let labels = metric.selector.unwrap().match_labels.unwrap();
        let selector: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}%3D{value}")).collect();
        let selector = selector.join("%2C");
        let path = format!("{ROOT}/namespaces/ml/{}?labelSelector={selector}", metric.name);
        let (status, answer) = ask(&path).await;
        assert_eq!((status, depths(&answer)), (200, expected));
    }
}

#[actix_web::test]
async fn unknown_paths_and_selectors_are_refused_and_other_namespaces_have_no_queues() {
    for (path, expected) in [
        ("/apis".to_owned(), 404),
        (format!("{ROOT}/namespaces/ml/other"), 404),
        (format!("{ROOT}/namespaces/ml/batchfleet_queue_depth?labelSelector=model+in+(a)"), 400),
    ] {
        let (status, answer) = ask(&path).await;
        assert_eq!(
            (status, &answer["kind"], &answer["code"]),
            (expected, &json!("Status"), &json!(expected))
        );
    }
    let (status, elsewhere) = ask(&format!("{ROOT}/namespaces/other/batchfleet_queue_depth")).await;
    assert_eq!((status, &elsewhere["items"]), (200, &json!([])));
}

#[test]
fn a_label_selector_requires_or_excludes_labels() {
    for (selector, versions) in [
        ("", vec![1, 2]),
        ("model=digits", vec![1, 2]),
        ("model==digits,version=2", vec![2]),
        ("model=digits, version != 2", vec![1]),
        ("model=other", vec![]),
        ("team=vision", vec![]),
        ("team!=vision", vec![1, 2]),
    ] {
        let labels = Labels::parse(selector).unwrap();
        let fit: Vec<_> =
            [1, 2].into_iter().filter(|version| labels.fit(&queue(*version))).collect();
        assert_eq!(fit, versions, "{selector}");
    }
}

/// Returns the response to a TLS client that trusts only these certificates, and presents its own if
/// it has one. The response is empty if the server refuses the client.
fn over_tls(address: SocketAddr, trusted: &str, own: Option<&Issued>) -> String {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(trusted.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let tls = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let tls = match own {
        None => tls.with_no_client_auth(),
        Some(own) => {
            let chain = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            tls.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    let name = "metrics.ml.svc".try_into().unwrap();
    let connection = ClientConnection::new(Arc::new(tls), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    let request = format!("GET {ROOT} HTTP/1.1\r\nhost: metrics\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    // A refusal is an error of the write or the read, and the server may close the connection without
    // TLS close_notify.
    stream.write_all(request.as_bytes()).ok();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8(answer).unwrap()
}

fn files(certificate: PathBuf, key: PathBuf) -> ExternalMetricsSettings {
    let (certificate, key) = (Some(certificate), Some(key));
    ExternalMetricsSettings { certificate, key, ..ExternalMetricsSettings::default() }
}

#[actix_web::test]
async fn a_client_that_trusts_the_given_certificate_is_served_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let made = rcgen::generate_simple_self_signed(["metrics.ml.svc".to_owned()]).unwrap();
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let settings = files(certificate, key);
    let any = "127.0.0.1:0".parse().unwrap();
    let client = FakeApi::default().client();
    let server = serve(any, &settings, source().await, &client).unwrap();
    let (address, trusted) = (server.address, made.cert.pem());
    let answer = spawn_blocking(move || over_tls(address, &trusted, None)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("APIResourceList"), "{answer}");
    server.handle.stop(false).await;
}

#[actix_web::test]
async fn without_a_certificate_one_is_made_and_a_missing_file_is_refused() {
    let any = "127.0.0.1:0".parse().unwrap();
    let client = FakeApi::default().client();
    let server = serve(any, &ExternalMetricsSettings::default(), source().await, &client).unwrap();
    assert_ne!(server.address.port(), 0);
    server.handle.stop(false).await;
    let absent = files("/nowhere/tls.crt".into(), "/nowhere/tls.key".into());
    let refused = serve(any, &absent, source().await, &client).err().unwrap().to_string();
    assert!(refused.starts_with("--external-metrics-certificate /nowhere/tls.crt"), "{refused}");
}

const API_SERVICE: &str =
    "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io";
const AUTHENTICATION: &str =
    "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";

/// An API server with the authority of its client certificates, and the `APIService` of a chart.
fn cluster(authority: &Issued, service: &str) -> FakeApi {
    let server = FakeApi::default();
    let published = json!({
        "requestheader-client-ca-file": authority.ca,
        "requestheader-allowed-names": r#"["front-proxy-client"]"#,
    });
    server.add(AUTHENTICATION, json!({"metadata": {}, "data": published}));
    let service = json!({"namespace": "ml", "name": service});
    server.add(API_SERVICE, json!({"metadata": {}, "spec": {"service": service}}));
    server
}

fn issued(name: &str) -> (Authority, Issued) {
    let authority = Authority::new("front-proxy", 1).unwrap();
    let issued = authority.sign(name, Vec::new(), Party::Client).unwrap();
    (authority, issued)
}

fn maintenance(server: &FakeApi, trust: &Arc<Trust>) -> Maintenance {
    Maintenance::new(trust.clone(), &server.client(), "ml", "metrics")
}

/// The authorities that the API server trusts, as PEM.
fn bundle(server: &FakeApi) -> String {
    let entered = server.get("v1beta1.external.metrics.k8s.io")["spec"]["caBundle"].clone();
    let bytes: k8s_openapi::ByteString = serde_json::from_value(entered).unwrap();
    String::from_utf8(bytes.0).unwrap()
}

#[actix_web::test]
async fn only_the_api_server_is_served_with_the_certificate_of_the_controller() {
    let (authority, aggregator) = issued("front-proxy-client");
    let server = cluster(&aggregator, "metrics");
    let settings = ExternalMetricsSettings {
        service: Some("metrics".to_owned()),
        ..ExternalMetricsSettings::default()
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let serving = serve(any, &settings, source().await, &server.client()).unwrap();
    let (address, handle) = (serving.address, serving.handle.clone());
    let maintained = tokio::spawn(serving.maintenance.unwrap().run());
    while server.get("v1beta1.external.metrics.k8s.io")["spec"]["caBundle"].is_null() {
        tokio::task::yield_now().await;
    }
    let trusted = bundle(&server);
    let other_name = authority.sign("another-client", Vec::new(), Party::Client).unwrap();
    let (_, other_authority) = issued("front-proxy-client");
    let answers = spawn_blocking(move || {
        let clients = [Some(&aggregator), Some(&other_name), Some(&other_authority), None];
        clients.map(|own| over_tls(address, &trusted, own))
    });
    let answers = answers.await.unwrap();
    assert!(answers[0].starts_with("HTTP/1.1 200"), "{}", answers[0]);
    assert_eq!(answers[1..], ["", "", ""]);
    maintained.abort();
    handle.stop(false).await;
}

#[actix_web::test]
async fn controllers_share_one_certificate_until_it_is_near_its_end() {
    let (_, aggregator) = issued("front-proxy-client");
    let server = cluster(&aggregator, "metrics");
    let trust = [(); 2].map(|()| Arc::new(Trust::new()));
    for trust in &trust {
        maintenance(&server, trust).step().await.unwrap();
    }
    let first = bundle(&server);
    assert_eq!(
        server.writes(),
        ["POST secrets/metrics", "PATCH apiservices/v1beta1.external.metrics.k8s.io"]
    );
    // A certificate with 20 days left is replaced, and both authorities are trusted.
    let old = Authority::new("metrics", 20).unwrap();
    let old = old.sign("metrics.ml.svc", Vec::new(), Party::Server).unwrap();
    server.edit("secrets/metrics", |secret| {
        for (key, value) in old.data() {
            secret["data"][key] = json!(k8s_openapi::ByteString(value.as_bytes().to_vec()));
        }
    });
    maintenance(&server, &trust[0]).step().await.unwrap();
    let renewed = bundle(&server);
    assert!(renewed.ends_with(&old.ca) && renewed != first, "{renewed}");
    assert_eq!(renewed.matches("BEGIN CERTIFICATE").count(), 2);
}

#[actix_web::test]
async fn the_api_service_of_another_provider_is_left_alone() {
    let (_, aggregator) = issued("front-proxy-client");
    let server = cluster(&aggregator, "prometheus-adapter");
    let error = maintenance(&server, &Arc::new(Trust::new())).step().await.unwrap_err().to_string();
    assert!(error.contains("belongs to the service ml/prometheus-adapter"), "{error}");
    assert_eq!(server.writes(), ["POST secrets/metrics"]);
}

/// A namespace whose deletion has begun.
fn deleted_namespace() -> serde_json::Value {
    json!({"metadata": {"name": "ml", "deletionTimestamp": "2026-01-01T00:00:00Z"}})
}

#[tokio::test(start_paused = true)]
async fn the_api_service_does_not_outlive_its_namespace() {
    let (_, aggregator) = issued("front-proxy-client");
    let server = cluster(&aggregator, "metrics");
    server.add("/api/v1/namespaces/ml", json!({"metadata": {"name": "ml"}}));
    let maintained = tokio::spawn(maintenance(&server, &Arc::new(Trust::new())).run());
    tokio::time::sleep(std::time::Duration::from_mins(3)).await;
    assert!(!server.get("v1beta1.external.metrics.k8s.io").is_null());
    // The first attempt fails.
    server.refuse("apiservices", 503);
    server.edit("/api/v1/namespaces/ml", |namespace| *namespace = deleted_namespace());
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    server.refuse("apiservices", 0);
    server.writes();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(server.writes(), ["DELETE apiservices/v1beta1.external.metrics.k8s.io"]);
    assert!(server.get("v1beta1.external.metrics.k8s.io").is_null());
    maintained.abort();
}

#[tokio::test(start_paused = true)]
async fn the_api_service_of_another_provider_survives_the_namespace() {
    let (_, aggregator) = issued("front-proxy-client");
    let server = cluster(&aggregator, "prometheus-adapter");
    server.add("/api/v1/namespaces/ml", deleted_namespace());
    let maintained = tokio::spawn(maintenance(&server, &Arc::new(Trust::new())).run());
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(!server.get("v1beta1.external.metrics.k8s.io").is_null());
    maintained.abort();
}
