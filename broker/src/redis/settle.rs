//! Removes claimed jobs from the queue, with a reply or by handing them back.

use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, Pipeline, RedisWrite, Value};
use tokio::time::Instant;

use super::{
    held::HeldEntries,
    keys,
    large_reply::{LARGE, LargeReply},
    queue::WorkerQueue,
    value_limit::mebibytes,
};
use crate::{
    BrokerError, Delivery, Failure, Reply, ReplyError, Settlement, throttle::Throttle, wire,
};

/// Limits the log lines about oversized replies, which callers can cause.
static OVERSIZE: Mutex<Throttle> = Mutex::new(Throttle::new(Duration::from_secs(10)));

/// Approximate number of dead letters to keep.
const DEAD_LETTERS: usize = 1000;

/// Publishes replies and removes their jobs in one `MULTI`. Returns how many replies had no
/// subscriber.
pub(super) async fn settle(
    queue: &WorkerQueue,
    held: &HeldEntries,
    mut settlements: Vec<Settlement>,
) -> Result<usize, BrokerError> {
    if settlements.is_empty() {
        return Ok(0);
    }
    refuse_oversize(queue, &mut settlements).await;
    settlements.sort_by_key(|settlement| settlement.gateway);
    let entries: Vec<_> = settlements.iter().map(|settlement| settlement.entry).collect();
    let size = wire::replies_size_hint(settlements.iter().map(|settlement| &settlement.reply));
    let mut commands = publish(queue, &settlements, Storage::Available);
    queue.remove(&mut commands, &entries);
    let answers = match queue.connections().send(commands.atomic(), size).await {
        Err(BrokerError::Full) => {
            // A full Redis refuses a whole `MULTI`, even one that frees memory. Without `MULTI`,
            // nothing is stored, and replies are published before their jobs are removed. At worst,
            // a reply is sent twice.
            let mut commands = publish(queue, &settlements, Storage::Full);
            queue.remove(&mut commands, &entries);
            queue.connections().send(&commands, size).await?
        }
        answers => answers?,
    };
    held.release(&entries).await;
    let counts_all = queue.connections().locator.channels().counts_all();
    let undelivered = |(message, listeners): (&[Settlement], _)| match listeners {
        Value::Int(0) if counts_all => message.len(),
        _ => 0,
    };
    let mut answers = answers.into_iter();
    let undelivered = messages(&settlements).zip(answers.by_ref()).map(undelivered).sum();
    let removed = answers.map(|answer| redis::from_redis_value(answer).unwrap_or(0_usize));
    if removed.sum::<usize>() < entries.len() {
        queue.doubt_settled(&entries);
    }
    Ok(undelivered)
}

/// Replaces replies that are larger than Redis takes by errors.
async fn refuse_oversize(queue: &WorkerQueue, settlements: &mut [Settlement]) {
    for Settlement { reply, .. } in settlements {
        let size = wire::replies_size_hint([&*reply].into_iter());
        let Some(limit) = queue.connections().exceeded(size).await else { continue };
        let (queue, request) = (queue.name(), reply.id);
        if let Some(omitted) = OVERSIZE.lock().admit() {
            let text = "answer is larger than Redis takes";
            tracing::warn!(%queue, %request, size, limit, omitted, "{text}");
        }
        let message = format!(
            "the answer has {}, but Redis takes at most {} as one value (proto-max-bulk-len); ask \
             for fewer rows or outputs at a time",
            mebibytes(size),
            mebibytes(limit)
        );
        reply.outcome = Err(ReplyError { failure: Failure::Model, message });
    }
}

/// Appends copies of the jobs to the queue, with their remaining time to live, and removes the
/// originals.
pub(super) async fn hand_back(
    queue: &WorkerQueue,
    held: &HeldEntries,
    deliveries: Vec<Delivery>,
) -> Result<(), BrokerError> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let now = Instant::now();
    let mut commands = Pipeline::new();
    let mut entries = Vec::with_capacity(deliveries.len());
    let mut size = 0;
    for Delivery { entry, mut job, deadline, .. } in deliveries {
        size += job.size();
        job.ttl = deadline.saturating_duration_since(now);
        let add = commands.cmd("XADD").arg(queue.stream(entry.priority)).arg("*");
        add.arg(keys::JOB).arg(&wire::encode_job(&job)[..]);
        entries.push(entry);
    }
    queue.remove(&mut commands, &entries);
    queue.connections().send(commands.atomic(), size).await?;
    held.release(&entries).await;
    Ok(())
}

/// Whether Redis can store data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Storage {
    Available,
    Full,
}

/// Builds the commands that publish replies, which must be sorted by gateway. If storage is
/// available, large replies are stored for their gateway to fetch, and poison jobs are recorded as
/// dead letters.
fn publish(queue: &WorkerQueue, settlements: &[Settlement], storage: Storage) -> Pipeline {
    let publish = queue.connections().locator.channels().publish();
    let mut commands = Pipeline::new();
    for message in messages(settlements) {
        let replies = message.iter().map(|settlement| &settlement.reply);
        let size = wire::replies_size_hint(replies.clone());
        let channel = queue.keys().replies(message[0].gateway);
        if size > LARGE && storage == Storage::Available {
            let large = LargeReply::new(queue.keys(), queue.name(), size);
            commands.add_command(large.store(replies)).ignore();
            commands.cmd(publish).arg(channel).arg(large.note());
            continue;
        }
        let mut message = Cmd::with_capacity(3, size + 64);
        message.arg(publish).arg(channel);
        wire::write_replies(&mut message.bufmut_for_next_arg(size), replies);
        commands.add_command(message);
    }
    for settlement in settlements.iter().filter(|_| storage == Storage::Available) {
        if let Some(message) = poison(&settlement.reply) {
            commands.add_command(dead_letter(queue, settlement, message)).ignore();
        }
    }
    commands
}

/// Builds the command that records a job that killed its workers.
fn dead_letter(queue: &WorkerQueue, settlement: &Settlement, message: &str) -> Cmd {
    let Settlement { entry, gateway, reply } = settlement;
    let mut add = redis::cmd("XADD");
    add.arg(queue.keys().dead(queue.name())).arg("MAXLEN").arg("~").arg(DEAD_LETTERS).arg("*");
    add.arg("request").arg(reply.id.to_string());
    add.arg("gateway").arg(gateway.to_string());
    add.arg("attempt").arg(reply.attempt);
    add.arg("digest").arg(format!("{:016x}", reply.digest));
    add.arg("entry").arg(entry.to_string());
    add.arg("message").arg(message);
    add
}

/// Groups replies into messages. A message is for one gateway and has at most [`LARGE`] bytes, or
/// consists of a single larger reply.
fn messages(settlements: &[Settlement]) -> impl Iterator<Item = &[Settlement]> {
    let size = |settlement: &Settlement| wire::replies_size_hint([&settlement.reply].into_iter());
    let mut before = 0;
    settlements.chunk_by(move |one, next| {
        before += size(one);
        let together = one.gateway == next.gateway && before + size(next) <= LARGE;
        before = if together { before } else { 0 };
        together
    })
}

/// The error message in the reply to a poison job.
fn poison(reply: &Reply) -> Option<&str> {
    let error = reply.outcome.as_ref().err()?;
    (error.failure == Failure::Poison).then_some(&error.message)
}
