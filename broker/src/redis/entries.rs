//! Entries of a queue's streams, and how they become deliveries.

use std::time::Duration;

use bytes::Bytes;
use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::{connect::into_bytes, consumer::RedisConsumer, keys};
use crate::{Delivery, EntryId, Priority, wire};

/// An entry that was claimed, with the job's bytes if it has any.
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) deliveries: u32,
    job: Option<Bytes>,
}

/// The entries in an answer about one stream, each claimed for the first time; `None` if the answer
/// has another form.
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

/// An entry's id in the stream of its class.
pub(super) fn entry_id(value: &Value, priority: Priority) -> Option<EntryId> {
    match value {
        Value::BulkString(text) => parse_id(str::from_utf8(text).ok()?, priority),
        _ => None,
    }
}

/// An entry's id from the text Redis writes.
pub(super) fn parse_id(text: &str, priority: Priority) -> Option<EntryId> {
    let (milliseconds, sequence) = text.split_once('-')?;
    let (milliseconds, sequence) = (milliseconds.parse().ok()?, sequence.parse().ok()?);
    Some(EntryId { priority, milliseconds, sequence })
}

/// An entry's id as Redis writes it.
pub(super) fn id_text(id: EntryId) -> String {
    format!("{}-{}", id.milliseconds, id.sequence)
}

impl RedisConsumer {
    /// Turns what was claimed into deliveries; `clock` is Redis's. What cannot be read is removed,
    /// or it would come back for ever.
    pub(super) async fn deliver(&self, entries: Vec<Entry>, clock: u64) -> Vec<Delivery> {
        let now = Instant::now();
        let mut deliveries = Vec::with_capacity(entries.len());
        let mut unreadable = Vec::new();
        for Entry { id, deliveries: count, job } in entries {
            match job.map(wire::decode_job) {
                Some(Ok(job)) => {
                    let waited = Duration::from_millis(clock.saturating_sub(id.milliseconds));
                    deliveries.push(Delivery {
                        entry: id,
                        deliveries: count,
                        waited,
                        claimed_at: now,
                        deadline: (now + job.ttl).checked_sub(waited).unwrap_or(now),
                        awaited: true,
                        job,
                    });
                }
                Some(Err(error)) => {
                    tracing::error!(queue = %self.name, entry = %id, %error, "removed an unreadable job");
                    unreadable.push(id);
                }
                None => {
                    tracing::error!(queue = %self.name, entry = %id, "removed an entry that is no job");
                    unreadable.push(id);
                }
            }
        }
        if !unreadable.is_empty() {
            let mut removal = Pipeline::new();
            self.remove(&mut removal, &unreadable);
            if let Err(error) = self.shared.run(&removal).await {
                tracing::warn!(%error, "could not remove unreadable jobs");
            }
        }
        deliveries
    }
}
