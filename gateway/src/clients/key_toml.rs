//! API keys as TOML: a table `[[keys]]` for each key.

use batchfleet_broker::Priority;
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::{Spanned, de::Error, value::Datetime};

use super::{
    expiry::Expiry,
    grant::{Grant, Identification, KeyHash, class, key_hash, rate},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keys: Vec<Spanned<Key>>,
}

/// One table: the hash of a key or the name in a certificate, and the fields of its [`Grant`]. The
/// name of the client may be omitted for a certificate.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    #[serde(default, deserialize_with = "hash_field")]
    sha256: Option<KeyHash>,
    certificate: Option<String>,
    name: Option<String>,
    #[serde(default, deserialize_with = "class_field")]
    class: Priority,
    #[serde(default, deserialize_with = "rate_field")]
    rate: Option<f64>,
    in_flight: Option<usize>,
    models: Option<Vec<String>>,
    #[serde(default, deserialize_with = "expiry_field")]
    expires: Option<Expiry>,
}

/// Whether a file is TOML. The first line that is neither blank nor a comment decides: in the other
/// format, every such line begins with a SHA-256 hash.
pub(super) fn is_toml(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| line.starts_with('[') || line.starts_with("keys"))
}

/// Reads the keys of a file, each with the number of its first line.
///
/// # Errors
///
/// The line, the field and a description of the problem.
pub(super) fn parse(text: &str) -> Result<Vec<(usize, Identification, Grant)>, String> {
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    let File { keys } = toml::from_str(text).map_err(|mut error: Error| {
        let at = error.span().map_or(0, |span| span.start);
        error.set_input(None); // Keeps keys out of the error message.
        format!("line {}: {}", line(at), error.to_string().trim_end().replace('\n', " "))
    })?;
    let keys = keys.into_iter().map(|key| {
        let line = line(key.span().start);
        let (identification, grant) =
            key.into_inner().grant().map_err(|wrong| format!("line {line}: {wrong}"))?;
        Ok((line, identification, grant))
    });
    keys.collect()
}

impl Key {
    fn grant(self) -> Result<(Identification, Grant), &'static str> {
        let Self { sha256, certificate, name, class, rate, in_flight, models, expires } = self;
        let name = name.or_else(|| certificate.clone()).ok_or("missing field `name`")?;
        let identification = match (sha256, certificate) {
            (Some(hash), None) => Identification::Key(hash),
            (None, Some(certificate)) => Identification::Certificate(certificate),
            _ => return Err("expected `sha256`, or else `certificate`"),
        };
        let name = name.into();
        Ok((identification, Grant { name, class, rate, in_flight, models, expires }))
    }
}

fn hash_field<'de, D: Deserializer<'de>>(field: D) -> Result<Option<KeyHash>, D::Error> {
    let hash = key_hash(&String::deserialize(field)?);
    hash.map(Some).ok_or_else(|| D::Error::custom("expected a SHA-256 of 64 hex digits"))
}

fn expiry_field<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Expiry>, D::Error> {
    let expiry = Expiry::parse(&Datetime::deserialize(field)?.to_string());
    expiry.map(Some).ok_or_else(|| D::Error::custom("expected a time in UTC"))
}

fn class_field<'de, D: Deserializer<'de>>(field: D) -> Result<Priority, D::Error> {
    let class = class(&String::deserialize(field)?);
    class.ok_or_else(|| D::Error::custom("expected critical, default or sheddable"))
}

fn rate_field<'de, D: Deserializer<'de>>(field: D) -> Result<Option<f64>, D::Error> {
    let rate = rate(f64::deserialize(field)?);
    rate.map(Some).ok_or_else(|| D::Error::custom("expected a number of at least 0"))
}
