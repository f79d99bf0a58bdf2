//! The requested models: `NAME`, `NAME:VERSION` or `NAME:VERSION@sha256:DIGEST`.

use std::str::FromStr;

use batchfleet_broker::QueueName;

use super::{
    identity::Digest,
    names::{MODEL_NAME, is_model_name, version_number},
};

/// A model to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The model's folder in the repository.
    pub name: String,
    /// The only version to serve; `None` leaves the choice to the model's `version_policy`.
    pub version: Option<u64>,
    /// The digest that the version's files must have.
    pub digest: Option<Digest>,
}

impl Wanted {
    /// Whether exactly this version is requested.
    pub(super) fn is(&self, queue: &QueueName) -> bool {
        self.name == queue.model && self.version == Some(queue.version)
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, digest) = match text.split_once('@') {
            Some((text, digest)) => (text, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, version) = match text.split_once(':') {
            Some((name, version)) => (name, Some(version_number(version))),
            None => (text, None),
        };
        let version = match version {
            Some(None) => return Err("a version is a whole number from 1".to_owned()),
            version => version.flatten(),
        };
        if !is_model_name(name) {
            return Err(format!(
                "expected NAME, NAME:VERSION or NAME:VERSION@sha256:DIGEST; the name of a model has \
                 {MODEL_NAME}"
            ));
        }
        if digest.is_some() && version.is_none() {
            return Err("a digest needs a version: expected NAME:VERSION@sha256:...".into());
        }
        Ok(Self { name: name.to_owned(), version, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_with_its_version_and_digest_if_wanted() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        let parsed = |text: &str| text.parse::<Wanted>();
        assert_eq!(parsed("a"), Ok(Wanted { name: "a".into(), version: None, digest: None }));
        let second = Wanted { name: "a.b_c-d".into(), version: Some(2), digest: None };
        assert_eq!(parsed("a.b_c-d:2"), Ok(second.clone()));
        let checked = Wanted { digest: digest.parse().ok(), ..second };
        assert_eq!(parsed(&format!("a.b_c-d:2@{digest}")), Ok(checked));
    }

    #[test]
    fn what_names_no_model_says_what_is_expected() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        for (text, complaint) in [
            ("a:0", "a version is a whole number from 1"),
            ("a:x", "a version is a whole number from 1"),
            ("../a", "expected NAME"),
            ("my model", "expected NAME"),
            ("", "expected NAME"),
            ("a:1@md5:00", "a digest is sha256:"),
            ("a:1@sha256:00", "a digest is sha256:"),
            (&format!("a@{digest}"), "a digest needs a version"),
        ] {
            let error = text.parse::<Wanted>().unwrap_err();
            assert!(error.starts_with(complaint), "{text:?}: {error}");
        }
    }
}
