//! The announcements of workers in Redis, and what there is beside them.
//!
//! A worker announces itself in the hash of its queue, so that Redis can deny the workers of one
//! model to announce another; the set [`Keys::queues`] names the queues. Programs of earlier
//! versions use one hash for all models, [`Keys::workers`]: workers write both hashes where Redis
//! lets them, and readers join them.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use parking_lot::Mutex;
use redis::{Pipeline, RedisError, Value, aio::ConnectionLike};
use serde::Deserialize;

use super::{announcement::StoredAnnouncement, denials, keys::Keys, values::parse};
use crate::{Announcement, ObservedWorker, QueueName, roles::REMEMBERED, throttle::Throttle};

/// The largest announcement, in bytes. Real ones have some KiB.
const LARGEST: usize = 1 << 20;
/// The most announcements of dead workers to read.
pub(super) const MOST_DEAD: usize = 512;
/// The most queues of which announcements are read.
pub(super) const MOST_QUEUES: usize = 10_000;
/// Limits the log lines about junk.
static LOG: Mutex<Throttle> = Mutex::new(Throttle::new(Duration::from_secs(10)));

/// A hash of announcements: worker to JSON.
pub(super) struct Source {
    key: String,
    /// The only queue that may be announced here; `None` for all queues.
    owner: Option<QueueName>,
    fields: HashMap<String, String>,
    /// Workers in this hash whose announcement was read elsewhere.
    others: usize,
}

/// An announcement that was renewed within the last hour, not parsed yet.
struct Candidate {
    key: String,
    owner: Option<QueueName>,
    stored: String,
    seen: u64,
}

/// What decides whether an announcement is parsed.
#[derive(Deserialize)]
struct Age {
    seen: u64,
}

/// The content of several hashes, sorted.
#[derive(Default)]
pub(super) struct Sorted {
    /// By worker.
    candidates: HashMap<String, Candidate>,
    /// Fields that nothing needs any longer, by key, and the queue of the key.
    forgotten: Vec<(String, Option<QueueName>, Vec<String>)>,
    /// Queues in whose hash nothing is left.
    unused: Vec<String>,
}

impl Source {
    /// The hash of all models.
    pub(super) fn shared(keys: Keys, fields: HashMap<String, String>) -> Self {
        Self { key: keys.workers(), owner: None, fields, others: 0 }
    }
}

/// Reads the hashes of these queues, without the workers that the hash of all models has: most
/// workers announce themselves in both.
pub(super) async fn read(
    keys: Keys,
    connection: &mut impl ConnectionLike,
    queues: &[String],
    shared: &HashMap<String, String>,
) -> Result<Vec<Source>, RedisError> {
    let known = queues.iter().filter_map(|queue| QueueName::parse(queue)).take(MOST_QUEUES);
    let known: Vec<QueueName> = known.collect();
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let mut names = Pipeline::new();
    for queue in &known {
        names.hkeys(keys.announcements(queue));
    }
    let answers: Vec<Value> = names.ignore_errors().query_async(connection).await?;
    let (mut sources, mut wanted) = (Vec::new(), Pipeline::new());
    for (owner, answer) in known.into_iter().zip(answers) {
        // A key of another type is no hash of announcements.
        let Ok(workers) = parse::<Vec<String>>(Some(answer)) else { continue };
        let all = workers.len();
        let missing: Vec<String> =
            workers.into_iter().filter(|worker| !shared.contains_key(worker)).collect();
        let key = keys.announcements(&owner);
        if !missing.is_empty() {
            wanted.cmd("HMGET").arg(&key).arg(&missing);
        }
        sources.push((key, owner, all - missing.len(), missing));
    }
    let answers: Vec<Value> = if wanted.is_empty() {
        Vec::new()
    } else {
        wanted.ignore_errors().query_async(connection).await?
    };
    let mut answers = answers.into_iter();
    let source = |(key, owner, others, missing): (String, QueueName, usize, Vec<String>)| {
        let read = if missing.is_empty() { None } else { answers.next() };
        let read: Vec<Option<String>> = parse(read).unwrap_or_default();
        let found = missing.into_iter().zip(read);
        let fields = found.filter_map(|(worker, stored)| Some((worker, stored?))).collect();
        Source { key, owner: Some(owner), fields, others }
    };
    Ok(sources.into_iter().map(source).collect())
}

/// Sorts announcements by their age. `queues` are the names that [`Keys::queues`] holds, and `now`
/// is Redis's clock in milliseconds.
pub(super) fn sort(sources: Vec<Source>, queues: &[String], now: u64) -> Sorted {
    let mut sorted = Sorted::default();
    let unreadable = queues.iter().filter(|queue| QueueName::parse(queue).is_none());
    sorted.unused.extend(unreadable.cloned());
    for Source { key, owner, fields, others } in sources {
        let mut forgotten = Vec::new();
        let all = fields.len();
        for (worker, stored) in fields {
            match age(&stored) {
                Ok(Age { seen })
                    if Duration::from_millis(now.saturating_sub(seen)) >= REMEMBERED =>
                {
                    forgotten.push(worker);
                }
                Ok(Age { seen }) => {
                    let (key, owner) = (key.clone(), owner.clone());
                    sorted.candidates.insert(worker, Candidate { key, owner, stored, seen });
                }
                Err(reason) => {
                    log_junk(&key, &worker, &reason);
                    forgotten.push(worker);
                }
            }
        }
        if let Some(owner) = owner.as_ref().filter(|_| forgotten.len() == all && others == 0) {
            sorted.unused.push(owner.to_string());
        }
        if !forgotten.is_empty() {
            sorted.forgotten.push((key, owner, forgotten));
        }
    }
    sorted
}

fn log_junk(key: &str, worker: &str, reason: &str) {
    if let Some(omitted) = LOG.lock().admit() {
        let worker: String = worker.chars().take(64).collect();
        tracing::warn!(key, worker, reason, omitted, "removed junk from Redis");
    }
}

fn age(stored: &str) -> Result<Age, String> {
    if stored.len() > LARGEST {
        return Err(format!("an announcement of {} bytes", stored.len()));
    }
    serde_json::from_str(stored).map_err(|error| error.to_string())
}

/// Parses and checks an announcement. A newer program within the same version of the wire format
/// only adds fields, so an announcement that cannot be read is junk.
pub(super) fn accept(
    worker: &str,
    owner: Option<&QueueName>,
    stored: &str,
) -> Result<Announcement, String> {
    let stored: StoredAnnouncement =
        serde_json::from_str(stored).map_err(|error| error.to_string())?;
    let queue = &stored.announcement.model.queue;
    if !queue.is_valid() {
        return Err("a model whose name or version is invalid".to_owned());
    }
    if owner.is_some_and(|owner| owner != queue) {
        return Err("the announcement of another model".to_owned());
    }
    if stored.announcement.worker != worker {
        return Err("the announcement of another worker".to_owned());
    }
    Ok(stored.announcement)
}

impl Sorted {
    /// The names of the workers with a recent announcement.
    pub(super) fn workers(&self) -> Vec<String> {
        self.candidates.keys().cloned().collect()
    }

    /// Parses the announcements of these workers, of which `live` tells those that live, and of the
    /// dead ones the latest [`MOST_DEAD`]: they cost memory, and nothing removes them for an hour.
    pub(super) fn observe(&mut self, workers: Vec<(String, bool)>) -> Vec<ObservedWorker> {
        let (living, dead): (Vec<_>, Vec<_>) = workers.into_iter().partition(|(_, live)| *live);
        let mut dead: Vec<_> = dead.into_iter().map(|(worker, _)| worker).collect();
        let seen = |worker: &String| self.candidates.get(worker).map(|candidate| candidate.seen);
        dead.sort_unstable_by_key(|worker| Reverse(seen(worker)));
        dead.truncate(MOST_DEAD);
        let living = living.into_iter().chain(dead.into_iter().map(|worker| (worker, false)));
        let mut observed = Vec::new();
        for (worker, live) in living {
            let Some(candidate) = self.candidates.remove(&worker) else { continue };
            let Candidate { key, owner, stored, .. } = candidate;
            match accept(&worker, owner.as_ref(), &stored) {
                Ok(announcement) => observed.push(ObservedWorker { announcement, live }),
                Err(reason) => {
                    log_junk(&key, &worker, &reason);
                    self.forgotten.push((key, owner, vec![worker]));
                }
            }
        }
        observed
    }

    /// Removes from Redis what nothing needs any longer. A program without this right leaves it to
    /// others.
    pub(super) async fn clean(
        &self,
        keys: Keys,
        connection: &mut impl ConnectionLike,
    ) -> Result<(), RedisError> {
        let mut commands = Pipeline::new();
        for (key, owner, fields) in &self.forgotten {
            commands.hdel(key, fields);
            if let Some(owner) = owner {
                commands.hdel(keys.beats(owner), fields);
            }
        }
        if !self.unused.is_empty() {
            commands.srem(keys.queues(), &self.unused);
        }
        if commands.is_empty() {
            return Ok(());
        }
        match commands.exec_async(connection).await {
            Err(error) if denials::is_of_permission(&error) => Ok(()),
            cleaned => cleaned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelSpec, WorkerId};

    const NOW: u64 = 10_000_000;

    fn announced(worker: &str, queue: &QueueName, seen: u64) -> (String, String) {
        let spec = ModelSpec {
            queue: queue.clone(),
            platform: String::new(),
            backend: String::new(),
            max_batch: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let announcement =
            Announcement { worker: worker.to_owned(), ..Announcement::new(WorkerId(1), spec) };
        (worker.to_owned(), StoredAnnouncement::json(&announcement, seen).unwrap())
    }

    fn source(owner: Option<&str>, fields: Vec<(String, String)>) -> Source {
        let owner = owner.map(|owner| QueueName::parse(owner).unwrap());
        let key = owner
            .as_ref()
            .map_or("shared".to_owned(), |owner| Keys::default().announcements(owner));
        Source { key, owner, fields: fields.into_iter().collect(), others: 0 }
    }

    #[test]
    fn only_valid_and_recent_announcements_of_the_own_model_count() {
        let (a, b) = (QueueName::new("a", 1), QueueName::new("b", 1));
        let long = "m".repeat(129);
        let own = vec![
            announced("good", &a, NOW),
            announced("of-b", &b, NOW),
            announced("old", &a, 0),
            ("junk".to_owned(), "{".to_owned()),
            ("other".to_owned(), announced("good", &a, NOW).1),
        ];
        let shared = vec![
            announced("odd", &QueueName::new("a\n", 1), NOW),
            announced("long", &QueueName::new(long, 1), NOW),
            announced("zero", &QueueName::new("a", 0), NOW),
            announced("of-b-too", &b, NOW),
        ];
        let queues = ["a:1", "c:1", "c", "\u{1}:1"].map(str::to_owned);
        let sources =
            vec![source(Some("a:1"), own), source(Some("c:1"), vec![]), source(None, shared)];
        let mut sorted = sort(sources, &queues, NOW);
        let workers = sorted.workers().into_iter().map(|worker| (worker, true)).collect();
        let observed = sorted.observe(workers);
        let mut known: Vec<_> =
            observed.iter().map(|worker| worker.announcement.worker.as_str()).collect();
        known.sort_unstable();
        assert_eq!(known, ["good", "of-b-too"]);
        let forgotten: usize = sorted.forgotten.iter().map(|(_, _, fields)| fields.len()).sum();
        assert_eq!(forgotten, 7);
        assert_eq!(sorted.unused, ["c", "\u{1}:1", "c:1"]);
    }

    #[test]
    fn of_dead_workers_the_latest_are_read() {
        let queue = QueueName::new("a", 1);
        let names = |number: usize| format!("{number:05}");
        let announcement = |number: usize| announced(&names(number), &queue, NOW + number as u64);
        let fields = (0..2 * MOST_DEAD).map(announcement).collect();
        let mut sorted = sort(vec![source(None, fields)], &[], NOW);
        let is_live = |worker: String| (worker.clone(), worker == names(3));
        let workers = sorted.workers().into_iter().map(is_live).collect();
        let observed = sorted.observe(workers);
        assert_eq!(observed.len(), MOST_DEAD + 1);
        let oldest = observed.iter().filter(|worker| !worker.live);
        let oldest = oldest.map(|worker| worker.announcement.worker.clone()).min();
        assert_eq!(oldest, Some(names(MOST_DEAD)));
        assert!(observed.iter().any(|worker| worker.live));
    }
}
