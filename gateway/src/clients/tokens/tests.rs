//! Tests of tokens.

use std::fs;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prometheus::IntCounter;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with one key.
struct Issuer {
    id: &'static str,
    key: Ed25519KeyPair,
}

impl Issuer {
    fn new(id: &'static str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { id, key: Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap() }
    }

    fn jwk(&self) -> Value {
        let x = encode(self.key.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.id, "x": x })
    }

    fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id });
        signed(&header, claims, |message| self.key.sign(message).as_ref().to_vec())
    }
}

fn signed(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    format!("{message}.{}", encode(sign(message.as_bytes())))
}

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

/// Claims that are valid for ten minutes, with changes.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": "https://id.example", "aud": ["batchfleet", "other"], "sub": "alice",
        "exp": now() + 600,
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn settings(folder: &TempDir) -> TokenSettings {
    TokenSettings {
        jwt_issuer: Some("https://id.example".to_owned()),
        jwt_audience: vec!["batchfleet".to_owned()],
        jwt_jwks_file: Some(folder.path().join("jwks")),
        jwt_clock_skew: Duration::from_secs(30),
        ..TokenSettings::default()
    }
}

/// Tokens of `settings`, whose issuers have published their keys.
async fn verifier(folder: &TempDir, settings: &TokenSettings, issuers: &[&Issuer]) -> Tokens {
    let tokens = Tokens::new(settings, Priority::Default).unwrap().unwrap();
    assert!(
        publish(folder, &tokens, &issuers.iter().map(|one| one.jwk()).collect::<Vec<_>>()).await
    );
    tokens
}

async fn publish(folder: &TempDir, tokens: &Tokens, keys: &[Value]) -> bool {
    fs::write(folder.path().join("jwks"), json!({ "keys": keys }).to_string()).unwrap();
    let failures = IntCounter::new("failures", "failures").unwrap();
    tokens.read(&mut Reloaded::new("token keys", failures)).await
}

fn refusal(tokens: &Tokens, token: &str) -> Denial {
    tokens.verify(token.as_bytes(), false).unwrap_err()
}

#[tokio::test]
async fn the_claims_of_a_token_grant_name_class_models_and_rate() {
    let (folder, issuer) = (TempDir::new().unwrap(), Issuer::new("1"));
    let settings = TokenSettings {
        jwt_class_claim: Some("class".to_owned()),
        jwt_models_claim: Some("/batchfleet/models".to_owned()),
        jwt_rate_claim: Some("https://id.example/rate".to_owned()),
        ..settings(&folder)
    };
    let tokens = verifier(&folder, &settings, &[&issuer]).await;
    let grant = |changes| tokens.verify(issuer.token(&claims(&changes)).as_bytes(), false);
    let all = grant(json!({
        "class": "critical", "batchfleet": { "models": ["a", "b"] }, "https://id.example/rate": 2.5
    }));
    let all = all.unwrap();
    assert_eq!((&*all.name, all.class, all.rate), ("alice", Priority::Critical, Some(2.5)));
    assert_eq!(all.models.as_deref().unwrap(), ["a", "b"]);

    let none = grant(json!({})).unwrap();
    assert_eq!((none.class, none.rate), (Priority::Default, None));
    assert_eq!(none.models.as_deref().unwrap(), [""; 0], "no claim, no model");
    let text = grant(json!({ "batchfleet": { "models": "a b" } })).unwrap();
    assert_eq!(text.models.as_deref().unwrap(), ["a", "b"]);
    for wrong in [
        json!({ "sub": "" }),
        json!({ "sub": 7 }),
        json!({ "class": "top" }),
        json!({ "https://id.example/rate": -1 }),
        json!({ "https://id.example/rate": "2" }),
        json!({ "batchfleet": { "models": [1] } }),
    ] {
        assert_eq!(grant(wrong.clone()), Err(Denial::Claims), "{wrong}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_valid_is_refused_with_its_reason() {
    let (folder, issuer, other) = (TempDir::new().unwrap(), Issuer::new("1"), Issuer::new("1"));
    let tokens = verifier(&folder, &settings(&folder), &[&issuer]).await;
    let with = |changes: Value| refusal(&tokens, &issuer.token(&claims(&changes)));
    assert_eq!(with(json!({ "exp": now() - 31 })), Denial::ExpiredToken);
    assert_eq!(with(json!({ "nbf": now() + 60 })), Denial::EarlyToken);
    assert_eq!(with(json!({ "iss": "https://id.example.org" })), Denial::Issuer);
    assert_eq!(with(json!({ "aud": "other" })), Denial::Audience);
    for wrong in ["exp", "iss", "aud"] {
        assert_eq!(with(json!({ wrong: null })), Denial::Claims, "{wrong}");
    }
    assert_eq!(refusal(&tokens, &other.token(&claims(&json!({})))), Denial::Signature);
    let unknown = Issuer { id: "2", ..issuer };
    assert_eq!(refusal(&tokens, &unknown.token(&claims(&json!({})))), Denial::UnknownSigner);
    for malformed in ["..", "a.b.c", "e30.e30.e30"] {
        assert_eq!(refusal(&tokens, malformed), Denial::MalformedToken, "{malformed}");
    }
}

#[tokio::test]
async fn b63_a_token_without_an_asymmetric_signature_is_refused() {
    let (folder, issuer) = (TempDir::new().unwrap(), Issuer::new("1"));
    let tokens = verifier(&folder, &settings(&folder), &[&issuer]).await;
    let valid = claims(&json!({}));
    let none = signed(&json!({ "alg": "none", "kid": "1" }), &valid, |_| Vec::new());
    assert_eq!(refusal(&tokens, &none), Denial::MalformedToken);
    let secret = hmac::Key::new(hmac::HMAC_SHA256, issuer.key.public_key().as_ref());
    for kid in [json!("1"), json!(null)] {
        let header = json!({ "alg": "HS256", "kid": kid });
        let forged = signed(&header, &valid, |text| hmac::sign(&secret, text).as_ref().to_vec());
        assert_eq!(refusal(&tokens, &forged), Denial::UnknownSigner);
    }
    let header = json!({ "alg": "EdDSA", "kid": "1", "crit": ["b64"], "b64": false });
    let critical = signed(&header, &valid, |text| issuer.key.sign(text).as_ref().to_vec());
    assert_eq!(refusal(&tokens, &critical), Denial::MalformedToken);
}

#[tokio::test]
async fn a_clock_skew_is_tolerated_for_the_first_and_for_later_requests() {
    let (folder, issuer) = (TempDir::new().unwrap(), Issuer::new("1"));
    let tokens = verifier(&folder, &settings(&folder), &[&issuer]).await;
    let token = issuer.token(&claims(&json!({ "exp": now() - 20, "nbf": now() + 20 })));
    for _ in 0..2 {
        assert_eq!(&*tokens.verify(token.as_bytes(), false).unwrap().name, "alice");
    }
}

#[tokio::test]
async fn a_token_is_refused_once_its_key_is_withdrawn() {
    let folder = TempDir::new().unwrap();
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let tokens = verifier(&folder, &settings(&folder), &[&old]).await;
    let (first, second) = (old.token(&claims(&json!({}))), new.token(&claims(&json!({}))));
    assert!(tokens.verify(first.as_bytes(), false).is_ok());
    assert_eq!(refusal(&tokens, &second), Denial::UnknownSigner);
    assert!(publish(&folder, &tokens, &[old.jwk(), new.jwk()]).await);
    assert!(tokens.verify(first.as_bytes(), false).is_ok());
    assert!(tokens.verify(second.as_bytes(), false).is_ok());
    assert!(publish(&folder, &tokens, &[new.jwk()]).await);
    assert_eq!(refusal(&tokens, &first), Denial::UnknownSigner);
    assert!(!publish(&folder, &tokens, &[]).await);
    assert!(tokens.verify(second.as_bytes(), false).is_ok(), "the previous keys stay valid");
}

#[tokio::test]
async fn keys_that_cannot_verify_tokens_are_ignored() {
    let (folder, issuer) = (TempDir::new().unwrap(), Issuer::new("1"));
    let tokens = verifier(&folder, &settings(&folder), &[&issuer]).await;
    let mut encryption = issuer.jwk();
    encryption["use"] = json!("enc");
    let mut other_algorithm = issuer.jwk();
    other_algorithm["alg"] = json!("RS256");
    let secret = json!({ "kty": "oct", "kid": "1", "k": "c2VjcmV0", "alg": "HS256" });
    let unknown = json!({ "kty": "AKP", "kid": "1" });
    let useless = [encryption, other_algorithm, secret, unknown, json!({}), json!(7)];
    assert!(!publish(&folder, &tokens, &useless).await);
    let some = [useless.as_slice(), &[issuer.jwk()]].concat();
    assert!(publish(&folder, &tokens, &some).await);
    assert!(tokens.verify(issuer.token(&claims(&json!({}))).as_bytes(), false).is_ok());
}

#[tokio::test]
async fn a_file_without_a_usable_key_is_refused_at_start() {
    let (folder, issuer) = (TempDir::new().unwrap(), Issuer::new("1"));
    let settings = settings(&folder);
    let problem = || settings.check().unwrap_err().to_string();
    assert!(problem().starts_with("--jwt-jwks-file /"), "{}", problem());
    for useless in ["", "{}", r#"{"keys": []}"#] {
        fs::write(folder.path().join("jwks"), useless).unwrap();
        assert!(problem().starts_with("--jwt-jwks-file /"), "{}", problem());
    }
    verifier(&folder, &settings, &[&issuer]).await;
    assert!(settings.check().is_ok());
    let url = |url: &str| TokenSettings {
        jwt_jwks_url: Some(url.to_owned()),
        jwt_jwks_file: None,
        ..settings.clone()
    };
    assert!(url("https://id.example/keys").check().is_ok(), "may be unreachable for a while");
    assert!(url("ftp://id.example/keys").check().is_err());
}

#[tokio::test]
async fn a_throttled_address_may_use_tokens_that_were_verified_before() {
    let (folder, issuer) = (TempDir::new().unwrap(), Issuer::new("1"));
    let tokens = verifier(&folder, &settings(&folder), &[&issuer]).await;
    let known = issuer.token(&claims(&json!({})));
    let new = issuer.token(&claims(&json!({ "sub": "bob" })));
    assert!(tokens.verify(known.as_bytes(), false).is_ok());
    assert!(tokens.verify(known.as_bytes(), true).is_ok());
    assert_eq!(tokens.verify(new.as_bytes(), true), Err(Denial::Throttled));
}

#[tokio::test]
async fn before_the_keys_are_read_no_token_is_accepted_or_taken_for_invalid() {
    let (folder, issuer) = (TempDir::new().unwrap(), Issuer::new("1"));
    let tokens = Tokens::new(&settings(&folder), Priority::Default).unwrap().unwrap();
    assert_eq!(refusal(&tokens, &issuer.token(&claims(&json!({})))), Denial::NoTokenKeys);
}

mod any_input {
    use proptest::prelude::*;

    use super::*;

    /// A part of a token: Base64 of JSON, of other text, or no Base64.
    fn part() -> impl Strategy<Value = String> {
        prop_oneof![
            r#"\{"(alg|kid|exp|aud|sub|crit)":("(EdDSA|HS256|none|1)"|-?[0-9]{1,20}|null|\[\])\}"#
                .prop_map(encode),
            ".{0,20}".prop_map(encode),
            "[ -~]{0,20}",
        ]
    }

    proptest! {
        #[test]
        fn no_token_and_no_key_set_is_accepted_by_chance_or_ends_the_program(
            parts in prop::collection::vec(part(), 0..5),
            keys in r#"(\{"keys":\[)?(\{"kty":"(RSA|EC|OKP|oct)","(n|crv|x|k)":"[ -~]{0,9}"\}|[ -~]{0,30})(\]\})?"#,
        ) {
            let (folder, issuer) = (TempDir::new().unwrap(), Issuer::new("1"));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let tokens = runtime.block_on(verifier(&folder, &settings(&folder), &[&issuer]));
            let token = parts.join(".");
            prop_assert!(tokens.verify(token.as_bytes(), false).is_err());
            let parsed = SigningKeys::parse(keys.as_bytes(), &tokens.required);
            prop_assert!(parsed.map_or(1, |keys| keys.len()) > 0);
        }
    }
}
