//! API keys as TOML: a table `[[keys]]` for each key.

use batchfleet_broker::Priority;
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::{Spanned, de::Error};

use super::grant::{Grant, KeyHash, class, key_hash, rate};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keys: Vec<Spanned<Key>>,
}

/// One table: the hash of a key, and the fields of its [`Grant`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    #[serde(deserialize_with = "hash_field")]
    sha256: KeyHash,
    name: String,
    #[serde(default, deserialize_with = "class_field")]
    class: Priority,
    #[serde(default, deserialize_with = "rate_field")]
    rate: Option<f64>,
    in_flight: Option<usize>,
    models: Option<Vec<String>>,
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
pub(super) fn parse(text: &str) -> Result<Vec<(usize, KeyHash, Grant)>, String> {
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    let File { keys } = toml::from_str(text).map_err(|mut error: Error| {
        let at = error.span().map_or(0, |span| span.start);
        error.set_input(None); // Keeps keys out of the error message.
        format!("line {}: {}", line(at), error.to_string().trim_end().replace('\n', " "))
    })?;
    let keys = keys.into_iter().map(|key| {
        let line = line(key.span().start);
        let Key { sha256, name, class, rate, in_flight, models } = key.into_inner();
        (line, sha256, Grant { name: name.into(), class, rate, in_flight, models })
    });
    Ok(keys.collect())
}

fn hash_field<'de, D: Deserializer<'de>>(field: D) -> Result<KeyHash, D::Error> {
    let hash = key_hash(&String::deserialize(field)?);
    hash.ok_or_else(|| D::Error::custom("expected a SHA-256 of 64 hex digits"))
}

fn class_field<'de, D: Deserializer<'de>>(field: D) -> Result<Priority, D::Error> {
    let class = class(&String::deserialize(field)?);
    class.ok_or_else(|| D::Error::custom("expected critical, default or sheddable"))
}

fn rate_field<'de, D: Deserializer<'de>>(field: D) -> Result<Option<f64>, D::Error> {
    let rate = rate(f64::deserialize(field)?);
    rate.map(Some).ok_or_else(|| D::Error::custom("expected a number of at least 0"))
}
