//! The file of API keys, reloaded while the gateway runs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use tracing::info;

use super::keys::Keys;
use crate::{metrics::AccessMetrics, reload::Reloaded};

/// The reason why the file of API keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file does not exist, or this process may not read it.
    #[error("cannot read --api-keys {}: {}", .0.display(), .1)]
    Unreadable(PathBuf, #[source] io::Error),
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
        reloaded.follow(move || read(&path), |new| self.replace(new)).await;
    }

    fn replace(&self, new: Keys) {
        let mut keys = self.keys.write();
        if **keys != new {
            info!(keys = new.len(), "reloaded API keys");
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
    Keys::parse(&text).map_err(|line| KeysError::Malformed(path.to_owned(), line))
}
