//! Replies that are too large for a message.
//!
//! Redis cuts off a subscriber that has 32 MB before it, and a client holds a whole message in its
//! memory several times. So these are left under a key of their own, and the message only says
//! where: the gateway fetches them piece by piece, a few at a time.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use redis::{Cmd, RedisWrite, Value};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    connect::{broker_error, into_bytes, nonsense},
    keys,
    pool::Pool,
};
use crate::{BrokerError, QueueName, Reply, wire};

/// The most bytes of replies that are a message.
pub(super) const LARGE: usize = 256 << 10;
/// How long a parcel waits to be fetched, in milliseconds.
const LIFE: u64 = 30_000;
/// How much of a parcel is fetched at a time.
const PIECE: usize = 1 << 20;
/// How many parcels are fetched at a time.
const FETCHED_AT_ONCE: usize = 2;
/// The first byte of a note; replies begin with the version of their format, which is never 0.
const NOTE: u8 = 0;

/// Where replies were left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    key: String,
    /// Room enough for its bytes.
    size: usize,
}

impl Parcel {
    /// A place for replies of about so many bytes.
    pub(super) fn new(queue: &QueueName, size: usize) -> Self {
        Self { key: keys::parcel(queue, rand::random()), size }
    }

    /// The command that leaves replies there.
    pub(super) fn leave<'a>(&self, replies: impl ExactSizeIterator<Item = &'a Reply>) -> Cmd {
        let mut set = Cmd::with_capacity(5, self.size + 128);
        set.arg("SET").arg(&self.key);
        wire::write_replies(&mut set.bufmut_for_next_arg(self.size), replies);
        set.arg("PX").arg(LIFE);
        set
    }

    /// The message that says where.
    pub(super) fn note(&self) -> Vec<u8> {
        let mut note = vec![NOTE];
        note.put_u64_le(self.size as u64);
        note.put_slice(self.key.as_bytes());
        note
    }

    /// The parcel that a message tells of; `None` if it holds replies itself.
    pub(super) fn noted(mut message: &[u8]) -> Option<Self> {
        if message.try_get_u8() != Ok(NOTE) {
            return None;
        }
        let size = usize::try_from(message.try_get_u64_le().ok()?).ok()?;
        Some(Self { key: str::from_utf8(message).ok()?.to_owned(), size })
    }

    async fn fetch(self, pool: Pool) -> Result<Bytes, BrokerError> {
        let mut connection = pool.get().await?;
        let mut bytes = BytesMut::with_capacity(self.size);
        loop {
            let (from, to) = (bytes.len(), bytes.len() + PIECE - 1);
            let mut get = redis::cmd("GETRANGE");
            get.arg(&self.key).arg(from).arg(to);
            let piece: Value = get.query_async(&mut *connection).await.map_err(broker_error)?;
            let piece = into_bytes(piece).ok_or_else(|| nonsense("GETRANGE"))?;
            bytes.extend_from_slice(&piece);
            if piece.len() < PIECE {
                break;
            }
        }
        if bytes.is_empty() {
            return Err(BrokerError::refused("replies were gone before they were fetched"));
        }
        if let Err(error) = redis::cmd("UNLINK").arg(&self.key).exec_async(&mut *connection).await {
            tracing::debug!(%error, "a parcel waits for its end");
        }
        Ok(bytes.freeze())
    }
}

/// The parcels being fetched. They go on whether anybody waits or not.
pub(super) struct Parcels {
    pool: Pool,
    turns: Arc<Semaphore>,
    fetching: JoinSet<Result<Bytes, BrokerError>>,
}

impl Parcels {
    pub(super) fn new(pool: Pool) -> Self {
        let turns = Arc::new(Semaphore::new(FETCHED_AT_ONCE));
        Self { pool, turns, fetching: JoinSet::new() }
    }

    /// Begins to fetch.
    pub(super) fn fetch(&mut self, parcel: Parcel) {
        let (pool, turns) = (self.pool.clone(), self.turns.clone());
        self.fetching.spawn(async move {
            let _turn = turns.acquire().await;
            parcel.fetch(pool).await
        });
    }

    /// The next that has come; waits for ever if there is none. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<Bytes, BrokerError> {
        match self.fetching.join_next().await {
            Some(Ok(fetched)) => fetched,
            Some(Err(error)) => Err(BrokerError::refused(error)),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_what_was_noted_and_replies_are_no_note() {
        let parcel = Parcel::new(&QueueName::new("m", 3), 70_000);
        assert!(parcel.key.starts_with("bf:{m:3}:"), "on the node of its queue: {}", parcel.key);
        assert_eq!(Parcel::noted(&parcel.note()), Some(parcel));
        assert_eq!(Parcel::noted(&wire::encode_replies([])), None);
        assert_eq!(Parcel::noted(&[]), None);
        assert_eq!(Parcel::noted(&[NOTE, 1, 2]), None);
    }
}
