//! The tasks that must run as long as the broker.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
};

use tokio::task::JoinHandle;

/// Starts tasks, and records when one of them panics. Clones share the record.
#[derive(Clone, Default)]
pub(super) struct Tasks(Arc<OnceLock<&'static str>>);

/// Records the end of its task if the task panics.
struct PanicGuard {
    name: &'static str,
    tasks: Tasks,
}

impl Tasks {
    /// Starts a task.
    pub(super) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let guard = PanicGuard { name, tasks: self.clone() };
        tokio::spawn(async move {
            let _guard = guard;
            task.await;
        })
    }

    /// The name of a task that panicked.
    pub(super) fn panicked(&self) -> Option<&'static str> {
        self.0.get().copied()
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Only the first panic is recorded.
            let _first = self.tasks.0.set(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_recorded_and_an_aborted_task_is_not() {
        let tasks = Tasks::default();
        let aborted = tasks.spawn("aborted", pending());
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());
        assert_eq!(tasks.panicked(), None);
        let panicking = tasks.spawn("panicking", async { panic!("as the test wants it") });
        assert!(panicking.await.unwrap_err().is_panic());
        assert_eq!(tasks.panicked(), Some("panicking"));
    }
}
