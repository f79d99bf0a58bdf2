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
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::*;
use crate::{
    crd::ModelFleet,
    decide::FleetSize,
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
            trace_endpoint: None,
            monitor_labels: std::collections::BTreeMap::new(),
            monitor_interval: None,
        };
        let size = FleetSize { floor: 1, depth_per_worker: 128 };
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

/// Returns the response to a TLS client that trusts only this certificate.
fn over_tls(address: SocketAddr, trusted: CertificateDer<'static>) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let tls = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "metrics.ml.svc".try_into().unwrap();
    let connection = ClientConnection::new(Arc::new(tls), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    let request = format!("GET {ROOT} HTTP/1.1\r\nhost: metrics\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // The server may close the connection without TLS close_notify.
    stream.read_to_end(&mut answer).ok();
    String::from_utf8(answer).unwrap()
}

fn files(certificate: PathBuf, key: PathBuf) -> ExternalMetricsSettings {
    ExternalMetricsSettings { listen: None, certificate: Some(certificate), key: Some(key) }
}

#[actix_web::test]
async fn a_client_that_trusts_the_given_certificate_is_served_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let made = rcgen::generate_simple_self_signed(["metrics.ml.svc".to_owned()]).unwrap();
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let trusted = CertificateDer::from_pem_file(&certificate).unwrap();
    let settings = files(certificate, key);
    let any = "127.0.0.1:0".parse().unwrap();
    let (server, address) = serve(any, &settings, source().await).unwrap();
    let answer = spawn_blocking(move || over_tls(address, trusted)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("APIResourceList"), "{answer}");
    server.stop(false).await;
}

#[actix_web::test]
async fn without_a_certificate_one_is_made_and_a_missing_file_is_refused() {
    let any = "127.0.0.1:0".parse().unwrap();
    let (server, address) =
        serve(any, &ExternalMetricsSettings::default(), source().await).unwrap();
    assert_ne!(address.port(), 0);
    server.stop(false).await;
    let absent = files("/nowhere/tls.crt".into(), "/nowhere/tls.key".into());
    let refused = serve(any, &absent, source().await).unwrap_err().to_string();
    assert!(refused.starts_with("--external-metrics-certificate /nowhere/tls.crt"), "{refused}");
}
