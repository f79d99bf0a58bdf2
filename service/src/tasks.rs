//! Long-lived tasks: when one of them ends, the process must end, because a program without one of
//! its parts looks healthy and does not work.

use std::{
    collections::HashMap,
    future::{Future, pending},
};

use tokio::task::{Id, JoinSet};

/// Exit status after a long-lived task has ended or panicked.
pub const EXIT_TASK: u8 = 80;

/// A long-lived task of the process has ended, although no shutdown began.
#[derive(Debug, thiserror::Error)]
#[error("a task of this process has {how}: {name}")]
pub struct TaskEnded {
    name: &'static str,
    how: &'static str,
}

impl TaskEnded {
    /// The task `name` has panicked.
    pub const fn panicked(name: &'static str) -> Self {
        Self { name, how: "panicked" }
    }

    /// The task `name` has returned.
    pub const fn returned(name: &'static str) -> Self {
        Self { name, how: "ended" }
    }
}

/// Tasks that must run until the shutdown; aborted on drop.
#[derive(Debug, Default)]
pub struct LongTasks {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl LongTasks {
    /// Starts a task on the current runtime.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits until a task ends; cancel-safe.
    pub async fn ended(&mut self) -> TaskEnded {
        let name = |id| self.names.get(&id).copied().unwrap_or("unnamed");
        match self.tasks.join_next_with_id().await {
            None => pending().await,
            Some(Ok((id, ()))) => TaskEnded::returned(name(id)),
            Some(Err(error)) => TaskEnded::panicked(name(error.id())),
        }
    }

    /// Aborts all tasks, and waits for their ends.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_task_that_ends_or_panics_is_named() {
        let mut tasks = LongTasks::default();
        tasks.spawn("lasting", pending());
        tasks.spawn("short", async {});
        assert_eq!(tasks.ended().await.to_string(), "a task of this process has ended: short");
        tasks.spawn("broken", async { panic!("as the test wants it") });
        let ended = tasks.ended().await.to_string();
        assert_eq!(ended, "a task of this process has panicked: broken");
        tasks.shutdown().await;
    }
}
