//! The summary: the beats of all queues that one gateway has read, for all gateways.
//!
//! To read all beats costs Redis time in proportion to the number of workers. If every gateway did so
//! every second, the cost would grow with the product of workers and gateways. So one gateway takes
//! the turn for a second, reads the beats, and leaves them under one key, which Redis hands out as it
//! is. Gateways of earlier versions read the beats for themselves.
//!
//! A summary is older than what it summarises. It is used only if no worker has come or gone since,
//! and only while all workers that lived when it was written still live by their beats in it.

use std::collections::HashMap;

use redis::{Pipeline, Value, aio::ConnectionLike};
use serde::{Deserialize, Serialize};

use super::{
    beats::{Beat, QueueBeats},
    findings,
    keys::Keys,
    look::Look,
    values::parse,
};
use crate::{BrokerError, QueueName};

/// How long a gateway keeps the turn, in milliseconds. Shorter than the time between two reads of a
/// gateway, so that a gateway without others takes each turn.
const TURN: u64 = 800;
/// How long a summary stays in Redis, in milliseconds.
const KEPT: u64 = 3000;
/// The oldest summary that is used, in milliseconds.
const OLDEST: u64 = 2000;

/// A beat in a summary: worker, time since it in milliseconds, revision, and whether the worker is
/// announced for programs of earlier versions and whether it has left.
type Summarized = (String, u64, u64, bool, bool);

/// The beats of all queues, and the look before they were read.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Summary {
    at: u64,
    epoch: Option<String>,
    changes: Option<String>,
    queues: Vec<(String, Vec<Summarized>)>,
}

/// Adds the commands that take the turn, if it is free, and read the summary.
pub(super) fn ask(keys: Keys, commands: &mut Pipeline) {
    commands.cmd("SET").arg(keys.summary_turn()).arg(1).arg("NX").arg("PX").arg(TURN);
    commands.get(keys.summary());
}

/// What [`ask`] has found.
pub(super) struct Found {
    /// Whether this gateway leaves the next summary.
    pub(super) is_turn: bool,
    summary: Option<Summary>,
}

impl Found {
    /// Reads the answers to [`ask`]. A gateway without the right to take turns and one that finds no
    /// summary read for themselves.
    pub(super) fn read(answers: &mut impl Iterator<Item = Value>) -> Self {
        let is_turn = matches!(parse::<Value>(answers.next()), Ok(Value::Okay));
        Self { is_turn, summary: findings::read(answers.next()) }
    }

    /// The beats in the summary, if they tell what this look would find.
    pub(super) fn beats(self, look: &Look) -> Option<Vec<QueueBeats>> {
        let summary = self.summary.filter(|_| !self.is_turn)?;
        summary.beats(look)
    }
}

impl Summary {
    /// Summarizes the beats that were read after this look.
    fn new(all: &[QueueBeats], look: &Look) -> Self {
        let summarized = |(worker, beat): (&String, &Beat)| {
            let Beat { seen, revision, is_shared, has_left } = *beat;
            (worker.clone(), look.at.saturating_sub(seen), revision, is_shared, has_left)
        };
        // A beat from the far future is junk, which an age cannot tell.
        let is_told = |(_, beat): &(&String, &Beat)| beat.seen <= look.at || beat.is_live(look.at);
        let of_queue = |queue: &QueueBeats| {
            let told = queue.of.iter().filter(is_told).map(summarized);
            (queue.queue.to_string(), told.collect())
        };
        Self {
            at: look.at,
            epoch: look.epoch.clone(),
            changes: look.changes.clone(),
            queues: all.iter().map(of_queue).collect(),
        }
    }

    /// The beats, if this look would find the same workers alive.
    fn beats(self, look: &Look) -> Option<Vec<QueueBeats>> {
        let Self { at, epoch, changes, queues } = self;
        let is_recent = (at..at.saturating_add(OLDEST)).contains(&look.at);
        if !is_recent || !look.is_of(epoch.as_ref(), changes.as_ref()) {
            return None;
        }
        let beat = |(worker, age, revision, is_shared, has_left): Summarized| {
            let seen = at.saturating_sub(age);
            (worker, Beat { seen, revision, is_shared, has_left })
        };
        let of_queue = |(queue, beats): (String, Vec<Summarized>)| {
            let of: HashMap<_, _> = beats.into_iter().map(beat).collect();
            Some(QueueBeats { queue: QueueName::parse(&queue)?, of })
        };
        let all: Vec<QueueBeats> = queues.into_iter().map(of_queue).collect::<Option<_>>()?;
        let mut beats = all.iter().flat_map(|queue| queue.of.values());
        beats.all(|beat| beat.is_live(at) == beat.is_live(look.at)).then_some(all)
    }
}

/// Leaves a summary for the other gateways; without beats one that they do not use.
pub(super) async fn write(
    keys: Keys,
    connection: &mut impl ConnectionLike,
    beats: Option<&[QueueBeats]>,
    look: &Look,
) -> Result<(), BrokerError> {
    let summary = beats.map_or_else(Summary::default, |all| Summary::new(all, look));
    findings::leave(connection, &keys.summary(), &summary, KEPT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 10_000;

    fn look(at: u64, changes: &str) -> Look {
        let text = |text: &str| Some(text.to_owned());
        Look { at, epoch: text("epoch"), changes: text(changes), may_count: true }
    }

    fn beats(seen: &[u64]) -> Vec<QueueBeats> {
        let beat = |(number, seen): (usize, &u64)| {
            let beat = Beat { seen: *seen, revision: 7, is_shared: true, has_left: false };
            (format!("worker-{number}"), beat)
        };
        let of = seen.iter().enumerate().map(beat).collect();
        vec![QueueBeats { queue: QueueName::new("model", 1), of }]
    }

    fn told(seen: &[u64], at: &Look) -> Option<Vec<QueueBeats>> {
        let text = serde_json::to_string(&Summary::new(&beats(seen), &look(AT, "1"))).unwrap();
        let answer = |text: String| Value::BulkString(text.into_bytes());
        Found::read(&mut [Value::Nil, answer(text)].into_iter()).beats(at)
    }

    #[test]
    fn a_summary_tells_the_beats_that_were_read() {
        let seen = [AT - 900, AT - 5000];
        assert_eq!(told(&seen, &look(AT + 500, "1")), Some(beats(&seen)));
    }

    #[test]
    fn a_beat_from_another_clock_makes_no_worker_live() {
        let told = told(&[u64::MAX, AT], &look(AT + 500, "1")).unwrap();
        assert_eq!(told[0].of.keys().collect::<Vec<_>>(), ["worker-1"]);
    }

    #[test]
    fn a_summary_is_not_used_if_it_may_be_wrong() {
        let seen = [AT - 900];
        assert_eq!(told(&seen, &look(AT + 500, "2")), None, "a worker has come or gone");
        assert_eq!(told(&seen, &look(AT + OLDEST, "1")), None, "it is old");
        assert_eq!(told(&seen, &look(AT - 1, "1")), None, "it comes from another clock");
        let denied = Look { may_count: false, ..look(AT + 500, "1") };
        assert_eq!(told(&seen, &denied), None, "changes are unknown");
        assert_eq!(told(&[AT - 1500], &look(AT + 1500, "1")), None, "the worker may be dead");
    }

    #[test]
    fn who_has_the_turn_reads_and_junk_is_no_summary() {
        let at = look(AT, "1");
        let text = serde_json::to_string(&Summary::new(&beats(&[AT]), &at)).unwrap();
        for (turn, summary) in [(Value::Okay, text.as_str()), (Value::Nil, "{"), (Value::Nil, "")] {
            let answers = [turn, Value::BulkString(summary.as_bytes().to_vec())];
            assert!(Found::read(&mut answers.into_iter()).beats(&at).is_none(), "{summary}");
        }
        assert!(Summary::default().beats(&at).is_none());
    }
}
