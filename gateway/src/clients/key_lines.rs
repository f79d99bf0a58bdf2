//! API keys as lines: `SHA256 NAME [class=CLASS] [rate=N] [in-flight=N] [models=A,B]
//! [expires=TIME]`.

use batchfleet_broker::Priority;

use super::{
    expiry::Expiry,
    grant::{Grant, Identification, class, key_hash, rate},
};

/// Reads the keys of a file, each with the number of its line. Blank lines and lines that begin with
/// `#` are ignored.
///
/// # Errors
///
/// The number of the malformed line, and a description of the problem.
pub(super) fn parse(text: &str) -> Result<Vec<(usize, Identification, Grant)>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| match key(line) {
            Ok((key, grant)) => Ok((at + 1, key, grant)),
            Err(wrong) => Err(format!("line {}: {wrong}", at + 1)),
        })
        .collect()
}

fn key(line: &str) -> Result<(Identification, Grant), String> {
    let mut words = line.split_whitespace();
    let hash =
        words.next().and_then(key_hash).ok_or("expected a SHA-256 of 64 hex digits first")?;
    let name = words.next().filter(|name| !name.contains('=')).ok_or("expected a name second")?;
    let mut grant = Grant::of(name.into(), Priority::Default);
    for word in words {
        let wrong = |what: &str| format!("{word:?}: expected {what}");
        match word.split_once('=') {
            Some(("class", name)) => {
                grant.class = class(name).ok_or_else(|| wrong("critical, default or sheddable"))?;
            }
            Some(("rate", text)) => {
                let number = text.parse().ok().and_then(rate);
                grant.rate = Some(number.ok_or_else(|| wrong("a number of at least 0"))?);
            }
            Some(("in-flight", text)) => {
                grant.in_flight = Some(text.parse().map_err(|_| wrong("a whole number"))?);
            }
            Some(("models", names)) => {
                grant.models = Some(names.split(',').map(str::to_owned).collect());
            }
            Some(("expires", text)) => {
                let time = Expiry::parse(text);
                grant.expires = Some(time.ok_or_else(|| wrong("a time such as 2027-01-31"))?);
            }
            _ => return Err(wrong("class=, rate=, in-flight=, models= or expires=")),
        }
    }
    Ok((Identification::Key(hash), grant))
}
