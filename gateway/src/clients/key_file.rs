//! The file of API keys, reloaded while the gateway runs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use tracing::{info, warn};

use super::keys::Keys;
use crate::{metrics::AccessMetrics, reload::Reloaded};

/// The reason why the file of API keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file does not exist, or this process may not read it.
    #[error("cannot read --api-keys {}: {}", .0.display(), .1)]
    Unreadable(PathBuf, #[source] io::Error),
    /// The file became empty while the gateway ran, as while another process writes it.
    #[error("--api-keys {} is empty; to deny all keys, write a comment line into it", .0.display())]
    Empty(PathBuf),
    /// A line of the file is malformed.
    #[error("--api-keys {}, {}", .0.display(), .1)]
    Malformed(PathBuf, String),
}

/// The file, and the keys last read from it.
#[derive(Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
    keys: RwLock<Arc<Keys>>,
}

impl KeyFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    ///
    /// [`KeysError`]
    pub(super) fn open(path: PathBuf) -> Result<Self, KeysError> {
        let keys = RwLock::new(Arc::new(read(&path)?));
        Ok(Self { path, keys })
    }

    /// The clients that the file lists now.
    pub(super) fn keys(&self) -> Arc<Keys> {
        self.keys.read().clone()
    }

    /// Task: applies changes of the file.
    pub(super) async fn follow(&self, metrics: &AccessMetrics) {
        let path = self.path.clone();
        let reloaded = Reloaded::new("API keys", metrics.reload_failures("api_keys"));
        reloaded.follow(move || read_again(&path), |new| self.replace(new)).await;
    }

    fn replace(&self, new: Keys) {
        let mut keys = self.keys.write();
        if **keys != new {
            match new.len() {
                0 => warn!("reloaded API keys: the file lists no client, so all keys are denied"),
                count => info!(keys = count, "reloaded API keys"),
            }
            *keys = Arc::new(new);
        }
    }
}

/// Reads the keys in the file at `path`.
///
/// # Errors
///
/// [`KeysError`]
pub(super) fn read(path: &Path) -> Result<Keys, KeysError> {
    let text =
        fs::read_to_string(path).map_err(|error| KeysError::Unreadable(path.to_owned(), error))?;
    parse(path, &text)
}

/// Reads the keys again. An empty file is taken for one that is being written, and leaves the
/// previous keys valid.
fn read_again(path: &Path) -> Result<Keys, KeysError> {
    let text =
        fs::read_to_string(path).map_err(|error| KeysError::Unreadable(path.to_owned(), error))?;
    if text.trim().is_empty() {
        return Err(KeysError::Empty(path.to_owned()));
    }
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Keys, KeysError> {
    Keys::parse(text).map_err(|line| KeysError::Malformed(path.to_owned(), line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_became_empty_leaves_the_keys_valid_and_a_comment_denies_all() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(read(file.path()).unwrap().len(), 0);
        for empty in ["", "\n"] {
            fs::write(file.path(), empty).unwrap();
            assert!(matches!(read_again(file.path()), Err(KeysError::Empty(_))), "{empty:?}");
        }
        fs::write(file.path(), "# no clients\n").unwrap();
        assert_eq!(read_again(file.path()).unwrap().len(), 0);
    }
}
