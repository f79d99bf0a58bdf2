//! The requested models: `NAME`, `NAME:VERSION` or `NAME:VERSION@sha256:DIGEST`.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
    str::FromStr,
};

use sha2::{Digest as _, Sha256};

use super::names::{is_model_name, version_number};

/// A model to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The model's folder in the repository.
    pub name: String,
    /// The only version to serve; `None` leaves the choice to the model's `version_policy`.
    pub version: Option<u64>,
    /// The SHA-256 that the version's model file must have.
    pub digest: Option<Digest>,
}

/// The SHA-256 of a model's file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Computes the digest of a file's content.
    pub(super) fn of_file(path: &Path) -> io::Result<Self> {
        let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
        let mut piece = vec![0; 1 << 16];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(Self(hasher.finalize().into())),
                read => hasher.update(&piece[..read]),
            }
        }
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
            return Err("expected NAME, NAME:VERSION or NAME:VERSION@sha256:DIGEST".to_owned());
        }
        if digest.is_some() && version.is_none() {
            return Err("a digest needs a version: expected NAME:VERSION@sha256:...".into());
        }
        Ok(Self { name: name.to_owned(), version, digest })
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a digest is sha256: and 64 hexadecimal digits".to_owned();
        let mut digest = [0; 32];
        let digits = text.strip_prefix("sha256:").ok_or_else(wrong)?;
        hex::decode_to_slice(digits, &mut digest).map_err(|_| wrong())?;
        Ok(Self(digest))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
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
        let checked = Wanted { digest: Some(Digest([0x0f; 32])), ..second };
        assert_eq!(parsed(&format!("a.b_c-d:2@{digest}")), Ok(checked));
        assert_eq!(digest.parse::<Digest>().unwrap().to_string(), digest);
    }

    #[test]
    fn what_names_no_model_says_what_is_expected() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        for (text, complaint) in [
            ("a:0", "a version is a whole number from 1"),
            ("a:x", "a version is a whole number from 1"),
            ("../a", "expected NAME"),
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
