//! The calls of a connection that are open, until their answers were sent.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    time::Duration,
};

use tokio::time::Instant;

/// The open calls of a connection.
pub(super) struct Calls {
    open: Rc<Cell<usize>>,
    /// When the last call began or ended.
    changed: Rc<Cell<Instant>>,
    all: RefCell<Vec<Weak<Call>>>,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            open: Rc::default(),
            changed: Rc::new(Cell::new(Instant::now())),
            all: RefCell::default(),
        }
    }
}

/// An open call, until its answer was sent.
pub(super) struct Call {
    open: Rc<Cell<usize>>,
    changed: Rc<Cell<Instant>>,
    /// Whether the call is an inference, which is answered before the gateway ends.
    owes: Cell<bool>,
    /// Since when a part of the answer waits for the client to read it.
    waits: Cell<Option<Instant>>,
}

impl Calls {
    /// Counts a call that begins.
    pub(super) fn begin(&self) -> Rc<Call> {
        self.open.set(self.open.get() + 1);
        self.changed.set(Instant::now());
        let (open, changed) = (self.open.clone(), self.changed.clone());
        let call = Rc::new(Call { open, changed, owes: Cell::default(), waits: Cell::default() });
        let mut all = self.all.borrow_mut();
        if all.len() >= 2 * self.open.get() + 16 {
            all.retain(|call| call.strong_count() > 0);
        }
        all.push(Rc::downgrade(&call));
        call
    }

    /// Whether no call is open.
    pub(super) fn are_none(&self) -> bool {
        self.open.get() == 0
    }

    /// Whether there has been no call for this time.
    pub(super) fn are_idle(&self, time: Duration) -> bool {
        self.are_none() && self.changed.get().elapsed() >= time
    }

    /// Whether the gateway must not end before the open calls have been answered.
    pub(super) fn owe_answers(&self) -> bool {
        let owes = |call: &Weak<Call>| call.upgrade().is_some_and(|call| call.owes.get());
        self.all.borrow().iter().any(owes)
    }

    /// Whether an answer has waited for its client for this time.
    pub(super) fn are_stalled(&self, time: Duration) -> bool {
        let is_stalled = |call: &Weak<Call>| {
            let since = call.upgrade().and_then(|call| call.waits.get());
            since.is_some_and(|since| since.elapsed() >= time)
        };
        self.all.borrow().iter().any(is_stalled)
    }
}

impl Call {
    /// The call is an inference.
    pub(super) fn owes_answer(&self) {
        self.owes.set(true);
    }

    /// A part of the answer was handed over to HTTP/2, which asks for the next part once the client has
    /// read enough.
    pub(super) fn moved(&self) {
        self.waits.set(Some(Instant::now()));
    }

    /// The client has read all of the answer so far.
    pub(super) fn rests(&self) {
        self.waits.set(None);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.changed.set(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_call() {
        let calls = Calls::default();
        let (first, second) = (calls.begin(), calls.begin());
        drop(first);
        advance(Duration::from_secs(9)).await;
        assert!(!calls.are_idle(Duration::from_secs(5)), "one call is open");
        drop(second);
        assert!(calls.are_none() && !calls.are_idle(Duration::from_secs(5)));
        advance(Duration::from_secs(5)).await;
        assert!(calls.are_idle(Duration::from_secs(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_stalls_if_its_client_reads_nothing() {
        let calls = Calls::default();
        let (slow, _other) = (calls.begin(), calls.begin());
        advance(Duration::from_secs(9)).await;
        assert!(!calls.are_stalled(Duration::from_secs(5)), "there is no answer yet");
        slow.moved();
        advance(Duration::from_secs(4)).await;
        slow.moved();
        advance(Duration::from_secs(4)).await;
        assert!(!calls.are_stalled(Duration::from_secs(5)));
        advance(Duration::from_secs(1)).await;
        assert!(calls.are_stalled(Duration::from_secs(5)));
        slow.rests();
        assert!(!calls.are_stalled(Duration::from_secs(5)));
    }

    #[test]
    fn ended_calls_are_forgotten() {
        let calls = Calls::default();
        (0..1000).for_each(|_| drop(calls.begin()));
        assert!(calls.all.borrow().len() < 40);
    }
}
