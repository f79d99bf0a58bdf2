//! API keys, as a file lists them.

use std::sync::Arc;

use batchfleet_broker::Priority;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::settings::rate;

/// What a key allows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Grant {
    /// Whose key it is; several keys of one name are one client.
    pub(super) name: Arc<str>,
    /// The highest class it may ask for.
    pub(super) class: Priority,
    /// Requests a second, 0 for no limit; the common one if not given.
    pub(super) rate: Option<f64>,
    /// Requests in flight, 0 for no limit; the common one if not given.
    pub(super) in_flight: Option<usize>,
    /// The only models there are for it; all if not given.
    pub(super) models: Option<Vec<String>>,
}

/// The keys, by their SHA-256: who reads the file learns no key.
#[derive(Debug, PartialEq)]
pub(super) struct Keys(Vec<([u8; 32], Arc<Grant>)>);

impl Keys {
    /// Reads a file's lines; blank ones and those that begin with `#` say nothing.
    ///
    /// # Errors
    ///
    /// Which line is wrong, and how.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut keys: Vec<([u8; 32], Arc<Grant>)> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what| format!("line {}: {what}", at + 1);
            let (hash, grant) = entry(line).map_err(wrong)?;
            if keys.iter().any(|(known, _)| *known == hash) {
                return Err(wrong("the key stands twice".to_owned()));
            }
            keys.push((hash, Arc::new(grant)));
        }
        Ok(Self(keys))
    }

    /// What a key allows, if it is one of ours. Takes as long whichever it is.
    pub(super) fn find(&self, key: &[u8]) -> Option<&Arc<Grant>> {
        let presented = Sha256::digest(key);
        let mut found = None;
        for (hash, grant) in &self.0 {
            if hash.as_slice().ct_eq(&presented).into() {
                found = Some(grant);
            }
        }
        found
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn entry(line: &str) -> Result<([u8; 32], Grant), String> {
    let mut words = line.split_whitespace();
    let hash = words.next().and_then(hash).ok_or("expected a SHA-256 of 64 hex digits first")?;
    let name = words.next().filter(|name| !name.contains('=')).ok_or("expected a name second")?;
    let mut grant = Grant {
        name: name.into(),
        class: Priority::Default,
        rate: None,
        in_flight: None,
        models: None,
    };
    for word in words {
        let wrong = |what: &str| format!("{word:?}: expected {what}");
        match word.split_once('=') {
            Some(("class", name)) => {
                grant.class = class(name).ok_or_else(|| wrong("critical, default or sheddable"))?;
            }
            Some(("rate", text)) => grant.rate = Some(rate(text).map_err(|_| wrong("a number"))?),
            Some(("in-flight", text)) => {
                grant.in_flight = Some(text.parse().map_err(|_| wrong("a whole number"))?);
            }
            Some(("models", names)) => {
                grant.models = Some(names.split(',').map(str::to_owned).collect());
            }
            _ => return Err(wrong("class=, rate=, in-flight= or models=")),
        }
    }
    Ok((hash, grant))
}

fn hash(hex: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(hash)
}

/// The class of this name.
pub(crate) fn class(name: &str) -> Option<Priority> {
    Priority::ALL.into_iter().find(|class| class.name().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "secret" and of "other".
    const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    const OTHER: &str = "D9298A10D1B0735837DC4BD85DAC641B0F3CEF27A47E5D53A54F2F3F5B2FCFFA";

    #[test]
    fn a_key_is_known_by_its_hash_and_nothing_else_is() {
        let keys = Keys::parse(&format!("# ours\n\n{SECRET} alice\n  {OTHER}   bob  \n")).unwrap();
        assert_eq!(&*keys.find(b"secret").unwrap().name, "alice");
        assert_eq!(&*keys.find(b"other").unwrap().name, "bob");
        for wrong in [&b""[..], b"Secret", b"secret ", SECRET.as_bytes()] {
            assert!(keys.find(wrong).is_none());
        }
    }

    #[test]
    fn a_line_says_what_differs_for_its_client() {
        let line = format!("{SECRET} alice class=critical rate=2.5 in-flight=8 models=a,b");
        let keys = Keys::parse(&line).unwrap();
        let wanted = Grant {
            name: "alice".into(),
            class: Priority::Critical,
            rate: Some(2.5),
            in_flight: Some(8),
            models: Some(vec!["a".to_owned(), "b".to_owned()]),
        };
        assert_eq!(**keys.find(b"secret").unwrap(), wanted);
    }

    #[test]
    fn a_wrong_line_is_told_with_its_number_and_without_the_key() {
        for wrong in [
            "secret alice".to_owned(),
            SECRET.to_owned(),
            format!("{} alice", &SECRET[1..]),
            format!("{}g alice", &SECRET[1..]),
            format!("{SECRET} class=critical"),
            format!("{SECRET} alice class=top"),
            format!("{SECRET} alice rate=fast"),
            format!("{SECRET} alice rate=-1"),
            format!("{SECRET} alice in-flight=1.5"),
            format!("{SECRET} alice quota=1"),
            format!("{SECRET} alice\n{SECRET} bob"),
        ] {
            let error = Keys::parse(&format!("\n{wrong}")).unwrap_err();
            let line = if wrong.contains("bob") { "line 3: " } else { "line 2: " };
            assert!(error.starts_with(line), "{error}");
            assert!(!error.contains(SECRET), "{error}");
        }
    }
}
