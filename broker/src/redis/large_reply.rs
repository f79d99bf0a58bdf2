//! Large replies, which do not fit into a pub/sub message.
//!
//! Redis disconnects a subscriber with 32 MB of unsent messages, and a client keeps several copies
//! of a message in memory. Large replies are therefore stored under a key, and the message is a
//! note with that key. The gateway fetches the replies in pieces, a few at a time.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use redis::{Cmd, RedisWrite, Value};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    errors::{broker_error, unreadable},
    keys::Keys,
    large_values::patience,
    pool::Pool,
    values::into_bytes,
};
use crate::{BrokerError, QueueName, Reply, wire};

/// Maximum size of the replies in a message, in bytes.
pub(super) const LARGE: usize = 256 << 10;
/// How long a large reply is kept for the gateway, in milliseconds.
const LIFE: u64 = 30_000;
/// Size of a fetched piece, in bytes.
const PIECE: usize = 1 << 20;
/// How many large replies are fetched concurrently.
const FETCHED_AT_ONCE: usize = 2;
/// The first byte of a note. Replies begin with the wire version, which is never 0.
const NOTE: u8 = 0;

/// The key of a large reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LargeReply {
    key: String,
    /// Upper bound of the size of the reply, in bytes.
    size: usize,
}

impl LargeReply {
    /// Generates a key for replies of about `size` bytes.
    pub(super) fn new(keys: Keys, queue: &QueueName, size: usize) -> Self {
        Self { key: keys.large_reply(queue, rand::random()), size }
    }

    /// Builds the command that stores the replies.
    pub(super) fn store<'a>(&self, replies: impl ExactSizeIterator<Item = &'a Reply>) -> Cmd {
        let mut set = Cmd::with_capacity(5, self.size + 128);
        set.arg("SET").arg(&self.key);
        wire::write_replies(&mut set.bufmut_for_next_arg(self.size), replies);
        set.arg("PX").arg(LIFE);
        set
    }

    /// Encodes the key as a message.
    pub(super) fn note(&self) -> Vec<u8> {
        let mut note = vec![NOTE];
        note.put_u64_le(self.size as u64);
        note.put_slice(self.key.as_bytes());
        note
    }

    /// Decodes the key in a message. Returns `None` if the message contains the replies themselves.
    pub(super) fn from_note(mut message: &[u8]) -> Option<Self> {
        if message.try_get_u8() != Ok(NOTE) {
            return None;
        }
        let size = usize::try_from(message.try_get_u64_le().ok()?).ok()?;
        Some(Self { key: str::from_utf8(message).ok()?.to_owned(), size })
    }

    async fn fetch(self, pool: Pool) -> Result<Bytes, BrokerError> {
        let mut connection = pool.get().await?;
        connection.set_patience(patience(PIECE));
        let mut bytes = BytesMut::with_capacity(self.size);
        loop {
            let (from, to) = (bytes.len(), bytes.len() + PIECE - 1);
            let mut get = redis::cmd("GETRANGE");
            get.arg(&self.key).arg(from).arg(to);
            let piece: Value = get.query_async(&mut *connection).await.map_err(broker_error)?;
            let piece = into_bytes(piece).ok_or_else(|| unreadable("GETRANGE"))?;
            bytes.extend_from_slice(&piece);
            if piece.len() < PIECE {
                break;
            }
        }
        if bytes.is_empty() {
            return Err(BrokerError::refused("large replies expired before they were fetched"));
        }
        if let Err(error) = redis::cmd("UNLINK").arg(&self.key).exec_async(&mut *connection).await {
            tracing::debug!(%error, "failed to delete large reply, which expires");
        }
        Ok(bytes.freeze())
    }
}

/// Fetches large replies in background tasks.
pub(super) struct LargeReplies {
    pool: Pool,
    turns: Arc<Semaphore>,
    fetching: JoinSet<Result<Bytes, BrokerError>>,
}

impl LargeReplies {
    pub(super) fn new(pool: Pool) -> Self {
        let turns = Arc::new(Semaphore::new(FETCHED_AT_ONCE));
        Self { pool, turns, fetching: JoinSet::new() }
    }

    /// Starts to fetch a large reply.
    pub(super) fn fetch(&mut self, large: LargeReply) {
        let (pool, turns) = (self.pool.clone(), self.turns.clone());
        self.fetching.spawn(async move {
            let _turn = turns.acquire().await;
            large.fetch(pool).await
        });
    }

    /// Waits for the next fetched replies; forever if nothing is being fetched. Cancel safe.
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
    fn a_note_is_read_back_and_replies_are_no_note() {
        let large = LargeReply::new(Keys::default(), &QueueName::new("m", 3), 70_000);
        assert!(large.key.starts_with("bf:{m:3}:"), "on the node of its queue: {}", large.key);
        assert_eq!(LargeReply::from_note(&large.note()), Some(large));
        assert_eq!(LargeReply::from_note(&wire::encode_replies([])), None);
        assert_eq!(LargeReply::from_note(&[]), None);
        assert_eq!(LargeReply::from_note(&[NOTE, 1, 2]), None);
    }
}
