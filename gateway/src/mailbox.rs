//! The way of results to the threads that serve HTTP.
//!
//! Waking another thread costs a system call. So the results for all callers of a thread go to the
//! mailbox of that thread, which is woken once and passes them to the callers.

use tokio::sync::{mpsc, oneshot};

use crate::error::InferResult;

/// The most results taken out at a time.
const HANDFUL: usize = 64;

/// The mailbox of one thread.
#[derive(Clone)]
pub(crate) struct Mailbox(mpsc::UnboundedSender<Letter>);

struct Letter {
    to: oneshot::Sender<InferResult>,
    result: InferResult,
}

/// Where one caller waits for its result.
pub(crate) struct Address {
    mailbox: Mailbox,
    caller: oneshot::Sender<InferResult>,
}

impl Mailbox {
    /// A mailbox, and the task that empties it on its thread; the task ends with the last address.
    pub(crate) fn open() -> (Self, impl Future<Output = ()>) {
        let (sender, mut letters) = mpsc::unbounded_channel();
        let empty = async move {
            let mut handful = Vec::with_capacity(HANDFUL);
            while letters.recv_many(&mut handful, HANDFUL).await > 0 {
                for Letter { to, result } in handful.drain(..) {
                    // Fails if the caller has left, which needs no result.
                    drop(to.send(result));
                }
            }
        };
        (Self(sender), empty)
    }

    /// The address of one more caller of this thread, and the receiver on which the caller waits.
    pub(crate) fn address(&self) -> (Address, oneshot::Receiver<InferResult>) {
        let (caller, result) = oneshot::channel();
        (Address { mailbox: self.clone(), caller }, result)
    }
}

impl Address {
    /// Sends the caller its result; `false` if the caller has left.
    pub(crate) fn send(self, result: InferResult) -> bool {
        let Self { mailbox, caller } = self;
        !caller.is_closed() && mailbox.0.send(Letter { to: caller, result }).is_ok()
    }
}
