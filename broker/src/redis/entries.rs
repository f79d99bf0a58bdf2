//! Entries of a queue's streams, in the format of Redis.

use bytes::Bytes;
use redis::Value;

use super::{keys, values::into_bytes};
use crate::{EntryId, Priority, ShardId};

/// A claimed entry, with the bytes of its job, if any.
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) deliveries: u32,
    pub(super) job: Option<Bytes>,
}

impl Entry {
    /// The size of the job in bytes.
    pub(super) fn size(&self) -> usize {
        self.job.as_ref().map_or(0, Bytes::len)
    }
}

/// Parses the entries in an answer about one stream, as first deliveries. Returns `None` if the
/// answer has an unexpected form.
pub(super) fn entries(answer: Value, priority: Priority) -> Option<Vec<Entry>> {
    let Value::Array(entries) = answer else { return None };
    let entry = |entry| {
        let Value::Array(parts) = entry else { return None };
        let [id, fields] = <[Value; 2]>::try_from(parts).ok()?;
        Some(Entry { id: entry_id(&id, priority)?, deliveries: 1, job: job_field(fields) })
    };
    entries.into_iter().map(entry).collect()
}

fn job_field(fields: Value) -> Option<Bytes> {
    let Value::Array(fields) = fields else { return None };
    let [name, job] = <[Value; 2]>::try_from(fields).ok()?;
    if into_bytes(name)? == keys::JOB { into_bytes(job) } else { None }
}

/// Parses the id of an entry in the stream of this class.
pub(super) fn entry_id(value: &Value, priority: Priority) -> Option<EntryId> {
    match value {
        Value::BulkString(text) => parse_id(str::from_utf8(text).ok()?, priority),
        _ => None,
    }
}

/// Parses the id of an entry from Redis's text.
pub(super) fn parse_id(text: &str, priority: Priority) -> Option<EntryId> {
    let (milliseconds, sequence) = text.split_once('-')?;
    let (milliseconds, sequence) = (milliseconds.parse().ok()?, sequence.parse().ok()?);
    Some(EntryId { priority, milliseconds, sequence, shard: ShardId::default() })
}

/// Formats the id of an entry as Redis's text.
pub(super) fn id_text(id: EntryId) -> String {
    format!("{}-{}", id.milliseconds, id.sequence)
}
