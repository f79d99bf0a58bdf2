//! The identity of a model version: a SHA-256 over every file that its graph names.
//!
//! The digest of a model in one file is the SHA-256 of that file. The digest of a model with
//! external data is the SHA-256 of its manifest: the output of `sha256sum` for all its files, sorted
//! by name. Both can be computed without this program.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
    str::FromStr,
};

use sha2::{Digest as _, Sha256};

/// Bytes per read of a file.
const PIECE: usize = 1 << 16;

/// A SHA-256: of a file, or the identity of a model version.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of bytes in memory.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of a file's content.
    pub(super) fn of_file(path: &Path) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        each_piece(path, |piece| hasher.update(piece))?;
        Ok(Self(hasher.finalize().into()))
    }
}

/// Reads a file piece by piece.
pub(super) fn each_piece(path: &Path, mut with: impl FnMut(&[u8])) -> io::Result<()> {
    let (mut file, mut piece) = (File::open(path)?, vec![0; PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            read => with(&piece[..read]),
        }
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

/// The digests of a model's files, by name relative to the model's file.
#[derive(Clone, Debug, Default)]
pub(super) struct Manifest(BTreeMap<String, Digest>);

impl Manifest {
    /// Adds a file.
    pub(super) fn add(&mut self, name: &str, digest: Digest) {
        self.0.insert(name.to_owned(), digest);
    }

    /// The identity of the model.
    pub(super) fn digest(&self) -> Digest {
        match self.0.first_key_value() {
            Some((_, only)) if self.0.len() == 1 => *only,
            _ => Digest::of(self.to_string().as_bytes()),
        }
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, digest)| writeln!(f, "{}  {name}", hex::encode(digest.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(digest.parse::<Digest>().unwrap().to_string(), digest);
        for wrong in ["sha256:00", "md5:00", &digest[7..]] {
            assert!(wrong.parse::<Digest>().unwrap_err().starts_with("a digest is sha256:"));
        }
    }

    /// The expected digests are those of `sha256sum model.onnx` and
    /// `sha256sum data/b.bin model.onnx | sha256sum`.
    #[test]
    fn the_identity_is_what_sha256sum_computes() {
        let mut manifest = Manifest::default();
        manifest.add("model.onnx", Digest::of(b"model"));
        let of_model = "sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4";
        assert_eq!(manifest.digest().to_string(), of_model);
        manifest.add("data/b.bin", Digest::of(b"weights"));
        let both = "sha256:bcfa5b2b80d8d4dd7e804f7d49ef69ba74c7f53b1014484cc58b1ee3b4febacf";
        assert_eq!(manifest.digest().to_string(), both);
    }
}
