//! The open calls of an HTTP/2 connection: requests whose answers were not yet sent.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use crate::{error::InferError, memory::MemoryShare};

/// The memory of an open call beside its request body and its unsent answer, in bytes.
const CALL_BYTES: usize = 16 << 10;
/// The part of the memory of connections beyond which calls are refused, in percent. The rest is kept for
/// new connections, because a client can open a thousand calls on each of its own.
const CALLS_PERCENT: usize = 50;
/// The part of the memory of connections beyond which slow readers are disconnected, in percent.
const UNSENT_PERCENT: usize = 75;
/// How long a client may leave its answer unread when there is no memory for the answer.
const SHORT_STALL: Duration = Duration::from_secs(1);

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
pub(crate) struct Call {
    open: Rc<Cell<usize>>,
    changed: Rc<Cell<Instant>>,
    /// Whether the call is answered before the gateway ends.
    owes: Cell<bool>,
    /// Since when a part of the answer waits for the client to read it.
    waits: Cell<Option<Instant>>,
    /// The memory of the call and of the part of its answer that waits in HTTP/2.
    share: RefCell<MemoryShare>,
    /// Whether there is memory for the call.
    has_room: bool,
    /// Whether the memory of connections has no room for the answer.
    is_squeezed: Cell<bool>,
}

impl Calls {
    /// Counts a call that begins, with its `share` of the memory of connections.
    pub(super) fn begin(&self, mut share: MemoryShare) -> Rc<Call> {
        self.open.set(self.open.get() + 1);
        self.changed.set(Instant::now());
        let (open, changed) = (self.open.clone(), self.changed.clone());
        let most = share.budget() / 100 * CALLS_PERCENT;
        let call = Rc::new(Call {
            open,
            changed,
            owes: Cell::default(),
            waits: Cell::default(),
            has_room: share.resize_within(CALL_BYTES, most).is_ok(),
            share: share.into(),
            is_squeezed: Cell::default(),
        });
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
        let is_stalled =
            |call: &Weak<Call>| call.upgrade().is_some_and(|call| call.is_stalled(time));
        self.all.borrow().iter().any(is_stalled)
    }
}

impl Call {
    /// Checks that there is memory for the call.
    ///
    /// # Errors
    ///
    /// 503 `connection_bytes`: there is none.
    pub(crate) fn check_room(&self) -> Result<(), InferError> {
        if self.has_room { Ok(()) } else { Err(InferError::ConnectionBytes) }
    }

    /// The call is answered before the gateway ends.
    pub(crate) fn owes_answer(&self) {
        self.owes.set(true);
    }

    /// The next `bytes` bytes of the answer wait in HTTP/2 for the client.
    pub(super) fn hands_over(&self, bytes: usize) {
        let mut share = self.share.borrow_mut();
        let most = share.budget() / 100 * UNSENT_PERCENT;
        self.is_squeezed.set(share.resize_within(CALL_BYTES + bytes, most).is_err());
    }

    fn is_stalled(&self, time: Duration) -> bool {
        let time = if self.is_squeezed.get() { time.min(SHORT_STALL) } else { time };
        self.waits.get().is_some_and(|since| since.elapsed() >= time)
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
    use std::sync::Arc;

    use prometheus::IntGauge;
    use tokio::time::advance;

    use super::*;
    use crate::memory::MemoryBudget;

    /// A memory of connections with room for this number of calls.
    fn memory(calls: usize) -> Arc<MemoryBudget> {
        let gauge = IntGauge::new("held", "for tests").unwrap();
        MemoryBudget::new((calls * CALL_BYTES / CALLS_PERCENT + 1) * 100, gauge)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_call() {
        let (calls, memory) = (Calls::default(), memory(2));
        let (first, second) = (calls.begin(memory.share()), calls.begin(memory.share()));
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
        let (calls, memory) = (Calls::default(), memory(2));
        let (slow, _other) = (calls.begin(memory.share()), calls.begin(memory.share()));
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
        let (calls, memory) = (Calls::default(), memory(1));
        for _ in 0..1000 {
            assert!(calls.begin(memory.share()).check_room().is_ok());
        }
        assert!(calls.all.borrow().len() < 40);
    }

    #[test]
    fn calls_of_all_connections_share_a_part_of_the_memory() {
        let (one, other, memory) = (Calls::default(), Calls::default(), memory(100));
        let mut open: Vec<_> = (0..60).map(|_| one.begin(memory.share())).collect();
        open.extend((0..60).map(|_| other.begin(memory.share())));
        let refused = open.iter().filter_map(|call| call.check_room().err());
        let codes: Vec<_> = refused.map(|error| error.code()).collect();
        assert_eq!(codes, ["connection_bytes"; 20]);
        drop(open);
        assert!(one.begin(memory.share()).check_room().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_memory_stalls_after_a_second() {
        let (calls, memory) = (Calls::default(), memory(2));
        let minute = Duration::from_mins(1);
        let call = calls.begin(memory.share());
        call.moved();
        call.hands_over(CALL_BYTES);
        advance(SHORT_STALL).await;
        assert!(!calls.are_stalled(minute), "there is memory for the answer");
        call.hands_over(4 * CALL_BYTES);
        assert!(calls.are_stalled(minute));
        call.hands_over(CALL_BYTES);
        assert!(!calls.are_stalled(minute));
    }
}
