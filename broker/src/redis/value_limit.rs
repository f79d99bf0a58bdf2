//! The largest value that Redis takes, `proto-max-bulk-len`.
//!
//! Redis closes the connection on which a larger value arrives, and with it all other commands of
//! the program fail. No program therefore sends a larger value.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::link::Link;

/// The limit that Redis has by default, in bytes. It applies if the Redis user may not read the
/// setting.
const DEFAULT: usize = 512 << 20;
/// The lowest limit that Redis accepts, in bytes: smaller values need no check.
const LOWEST: usize = 1 << 20;
/// How long a limit that was read is used. An operator may change it while Redis runs.
const FRESH: Duration = Duration::from_secs(10);
/// The part of a limit that is left for the fields around a value.
const MARGIN: usize = 1 << 10;

/// The limit as last read.
#[derive(Default)]
pub(super) struct ValueLimit(Mutex<Option<(usize, Instant)>>);

impl ValueLimit {
    /// The limit that a value of `size` bytes exceeds; `None` if Redis takes the value.
    pub(super) async fn exceeded(&self, size: usize, link: &Link) -> Option<usize> {
        if size + MARGIN <= LOWEST {
            return None;
        }
        let limit = self.current(link).await;
        (size + MARGIN > limit).then_some(limit)
    }

    async fn current(&self, link: &Link) -> usize {
        let known = *self.0.lock();
        if let Some((limit, _)) = known.filter(|(_, read)| read.elapsed() < FRESH) {
            return limit;
        }
        let limit = read(link).await.unwrap_or(DEFAULT);
        *self.0.lock() = Some((limit, Instant::now()));
        limit
    }
}

/// Reads the setting; `None` if the Redis user may not, or Redis is not reachable.
async fn read(link: &Link) -> Option<usize> {
    const SETTING: &str = "proto-max-bulk-len";
    let mut connection = link.connection().await.ok()?;
    let command = redis::cmd("CONFIG").arg("GET").arg(SETTING).clone();
    let settings: HashMap<String, String> = command.query_async(&mut connection).await.ok()?;
    settings.get(SETTING)?.parse().ok()
}

/// A size for people, in MiB.
pub(super) fn mebibytes(bytes: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "rounded for people")]
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    format!("{mebibytes:.1} MiB")
}
