//! Tests of the order in which credentials count, and of the rights that they give.

use std::{fs, path::PathBuf};

use batchfleet_service::metrics::MetricGroup;
use prometheus::Registry;
use tempfile::TempDir;

use super::*;

/// The SHA-256 of the API key "secret".
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// The head of a request, and the name in the certificate of its connection.
#[derive(Default)]
struct Head {
    headers: Vec<(&'static str, &'static str)>,
    certificate: Option<Arc<str>>,
}

impl RequestOrigin for Head {
    fn peer(&self) -> Option<IpAddr> {
        Some([10, 0, 0, 1].into())
    }

    fn header(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        let of_name = move |(header, _): &&(&str, &str)| *header == name;
        self.headers.iter().filter(of_name).map(|(_, value)| value.as_bytes())
    }

    fn certificate(&self) -> Option<Arc<str>> {
        self.certificate.clone()
    }
}

fn with(name: &'static str, value: &'static str) -> Head {
    Head { headers: vec![(name, value)], certificate: None }
}

fn certified(name: &str, mut head: Head) -> Head {
    head.certificate = Some(name.into());
    head
}

fn clients(settings: &ClientSettings, certificates: bool) -> Arc<Clients> {
    let access = AccessMetrics::register(&Registry::new()).unwrap();
    Clients::new(settings, certificates, &access).unwrap()
}

/// Settings with this file of keys.
fn keys(folder: &TempDir, text: &str) -> ClientSettings {
    let path: PathBuf = folder.path().join("keys");
    fs::write(&path, text).unwrap();
    ClientSettings { api_keys: Some(path), ..ClientSettings::default() }
}

fn name(clients: &Clients, head: &Head) -> Result<String, Denial> {
    clients.recognize(head).map(|client| match client.id {
        ClientId::Name(name) => name.to_string(),
        id => format!("{id:?}"),
    })
}

#[test]
fn critical_must_be_granted_to_a_client() {
    let open = clients(&ClientSettings::default(), false);
    let class =
        |clients: &Clients, head: &Head| clients.recognize(head).unwrap().class(Priority::Critical);
    assert_eq!(class(&open, &Head::default()), Priority::Default);
    let settings = ClientSettings { default_class: Priority::Critical, ..Default::default() };
    assert_eq!(class(&clients(&settings, false), &Head::default()), Priority::Critical);

    let folder = TempDir::new().unwrap();
    let text = format!(
        "[[keys]]\nsha256 = '{SECRET}'\nname = 'alice'\n\
         [[keys]]\ncertificate = 'trainer'\nclass = 'critical'"
    );
    let guarded = clients(&keys(&folder, &text), true);
    assert_eq!(class(&guarded, &with("x-api-key", "secret")), Priority::Default);
    assert_eq!(class(&guarded, &certified("trainer", Head::default())), Priority::Critical);
    assert_eq!(class(&guarded, &certified("other", Head::default())), Priority::Default);
}

#[test]
fn a_key_counts_before_the_certificate_and_an_invalid_one_is_refused() {
    let folder = TempDir::new().unwrap();
    let both = clients(&keys(&folder, &format!("{SECRET} alice\n")), true);
    for (header, valid, invalid) in
        [("x-api-key", "secret", "x"), ("authorization", "Bearer secret", "bearer x")]
    {
        let head = |value| certified("trainer", with(header, value));
        assert_eq!(name(&both, &head(valid)).unwrap(), "alice");
        assert_eq!(name(&both, &head(invalid)), Err(Denial::UnknownKey));
    }
    assert_eq!(name(&both, &certified("trainer", Head::default())).unwrap(), "trainer");
    assert_eq!(name(&both, &Head::default()), Err(Denial::Missing));
    let basic = certified("trainer", with("authorization", "Basic secret"));
    assert_eq!(name(&both, &basic).unwrap(), "trainer", "no credential of this gateway");
}

#[test]
fn a_gateway_that_takes_certificates_only_ignores_keys() {
    let certificates = clients(&ClientSettings::default(), true);
    let head = certified("trainer", with("x-api-key", "guessed"));
    assert_eq!(name(&certificates, &head).unwrap(), "trainer");
    assert_eq!(name(&certificates, &with("x-api-key", "guessed")), Err(Denial::Missing));
}

#[test]
fn a_certificate_whose_entry_has_expired_is_no_credential() {
    let folder = TempDir::new().unwrap();
    let text = "[[keys]]\ncertificate = 'trainer'\nexpires = 2020-01-01";
    let clients = clients(&keys(&folder, text), true);
    assert_eq!(name(&clients, &certified("trainer", Head::default())), Err(Denial::Missing));
}

#[test]
fn the_certificate_of_a_gateway_without_client_authorities_identifies_no_client() {
    let open = clients(&ClientSettings::default(), false);
    let id = name(&open, &certified("trainer", Head::default())).unwrap();
    assert_eq!(id, format!("{:?}", ClientId::Address([10, 0, 0, 1].into())));
}

#[tokio::test]
async fn an_address_that_floods_the_gateway_with_wrong_tokens_gets_no_more_of_them_verified() {
    const JWKS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("jwks");
    fs::write(&path, JWKS).unwrap();
    let tokens = TokenSettings {
        jwt_issuer: Some("https://id.example".to_owned()),
        jwt_audience: vec!["batchfleet".to_owned()],
        jwt_jwks_file: Some(path),
        ..TokenSettings::default()
    };
    // One failure in ten seconds gets 401; ten are verified.
    let settings = ClientSettings { tokens, auth_failure_rate: 0.1, ..Default::default() };
    let clients = clients(&settings, false);
    clients.prepare().await;
    let head = with("authorization", "Bearer a.b.c");
    let status = |client: Result<Client, InferError>| client.unwrap_err().code();
    assert_eq!(status(clients.identify(&head)), "unauthorized");
    for _ in 1..10 {
        assert_eq!(name(&clients, &head), Err(Denial::MalformedToken));
        assert_eq!(status(clients.identify(&head)), "auth_failures");
    }
    assert_eq!(name(&clients, &head), Err(Denial::Throttled));
    assert_eq!(status(clients.identify(&head)), "auth_failures");
}
