//! The file of API keys, reloaded while the gateway runs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use tokio::{
    task::spawn_blocking,
    time::{Duration, interval},
};
use tracing::{error, info};

use super::{grant::Grant, keys::Keys};

/// Interval between reloads of the file.
const RELOAD: Duration = Duration::from_secs(5);

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

    /// The permissions of `key`; `None` if the file does not list the key.
    pub(super) fn find(&self, key: &[u8]) -> Option<Arc<Grant>> {
        let keys = self.keys.read().clone();
        keys.find(key).cloned()
    }

    /// Task: reloads the file every [`RELOAD`]. If the file cannot be used, the current keys stay
    /// valid.
    pub(super) async fn follow(&self) {
        let mut ticks = interval(RELOAD);
        let mut failed = false;
        loop {
            ticks.tick().await;
            let path = self.path.clone();
            match spawn_blocking(move || read(&path)).await {
                Ok(Ok(new)) => {
                    self.replace(new);
                    failed = false;
                }
                Ok(Err(error)) if !failed => {
                    error!(%error, "failed to reload API keys, keeping the previous ones");
                    failed = true;
                }
                _ => {}
            }
        }
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
