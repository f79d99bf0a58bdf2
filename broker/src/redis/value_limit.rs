//! The largest value that Redis takes, `proto-max-bulk-len`.
//!
//! Redis closes the connection on which a larger value arrives. No program therefore sends a value
//! above the known limit.
//!
//! `CONFIG GET` reads the limit, but also passwords, so the users of the chart have no right to it.
//! They find the limit with `GETBIT`: Redis refuses the number of a bit that lies beyond the largest
//! value, also for a short value, and answers without using memory. A user without this right either
//! learns the limit from the job that Redis refuses.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use redis::aio::ConnectionLike;
use tokio::time::Instant;

use super::{errors::is_out_of_range, keys::Keys, link::Link};

/// The limit that Redis has by default, in bytes. It applies if the Redis user may not find it out.
const DEFAULT: usize = 512 << 20;
/// The lowest limit that Redis accepts, in bytes: smaller values need no check.
const LOWEST: usize = 1 << 20;
/// How long a limit that was read is used. An operator may change it while Redis runs.
const FRESH: Duration = Duration::from_secs(10);
/// How long the size of a value that Redis refused is the limit.
const REMEMBERED: Duration = Duration::from_mins(5);
/// The part of a limit that is left for the fields around a value.
const MARGIN: usize = 1 << 10;

/// The limit as last read or learned.
#[derive(Default)]
pub(super) struct ValueLimit(Mutex<Option<Known>>);

#[derive(Clone, Copy)]
struct Known {
    limit: usize,
    until: Instant,
}

impl ValueLimit {
    /// The limit that a value of `size` bytes exceeds; `None` if Redis takes the value.
    pub(super) async fn exceeded(&self, size: usize, keys: Keys, link: &Link) -> Option<usize> {
        if size + MARGIN <= LOWEST {
            return None;
        }
        let limit = self.current(keys, link).await;
        (size + MARGIN > limit).then_some(limit)
    }

    /// Remembers that Redis takes at most `limit` bytes.
    pub(super) fn learn(&self, limit: usize) {
        let limit = self.known().map_or(limit, |known| known.min(limit));
        *self.0.lock() = Some(Known { limit, until: Instant::now() + REMEMBERED });
    }

    fn known(&self) -> Option<usize> {
        let known = *self.0.lock();
        known.filter(|known| known.until > Instant::now()).map(|known| known.limit)
    }

    async fn current(&self, keys: Keys, link: &Link) -> usize {
        if let Some(limit) = self.known() {
            return limit;
        }
        let limit = find(keys, link).await.unwrap_or(DEFAULT);
        // Another task may have learned a limit meanwhile.
        if let Some(limit) = self.known() {
            return limit;
        }
        *self.0.lock() = Some(Known { limit, until: Instant::now() + FRESH });
        limit
    }
}

/// Finds the limit; `None` if the Redis user may not, or Redis is not reachable.
async fn find(keys: Keys, link: &Link) -> Option<usize> {
    let mut connection = link.connection().await.ok()?;
    match read(&mut connection).await {
        Some(limit) => Some(limit),
        None => search(keys, &mut connection).await,
    }
}

/// Searches the limit. Takes one round trip if Redis has its default, and otherwise 30.
async fn search(keys: Keys, connection: &mut impl ConnectionLike) -> Option<usize> {
    if takes(keys, connection, DEFAULT - 1).await? {
        return Some(DEFAULT);
    }
    let (mut taken, mut refused) = (LOWEST - 1, DEFAULT - 1);
    while refused - taken > 1 {
        let middle = taken.midpoint(refused);
        if takes(keys, connection, middle).await? {
            taken = middle;
        } else {
            refused = middle;
        }
    }
    Some(refused)
}

/// Whether the limit is above `size`.
async fn takes(keys: Keys, connection: &mut impl ConnectionLike, size: usize) -> Option<bool> {
    let mut get = redis::cmd("GETBIT");
    get.arg(keys.epoch()).arg(8 * size as u64);
    match get.exec_async(connection).await {
        Ok(()) => Some(true),
        Err(error) => is_out_of_range(&error).then_some(false),
    }
}

/// Reads the setting; `None` if the Redis user may not.
async fn read(connection: &mut impl ConnectionLike) -> Option<usize> {
    const SETTING: &str = "proto-max-bulk-len";
    let command = redis::cmd("CONFIG").arg("GET").arg(SETTING).clone();
    let settings: HashMap<String, String> = command.query_async(connection).await.ok()?;
    settings.get(SETTING)?.parse().ok()
}

/// A size for people, in MiB.
pub(super) fn mebibytes(bytes: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "rounded for people")]
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    format!("{mebibytes:.1} MiB")
}
