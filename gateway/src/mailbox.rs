//! Passes results to the threads that serve HTTP.
//!
//! Waking another thread costs a system call. The results for all callers of a thread therefore go
//! to the thread's mailbox, whose task wakes up once and passes the results to the callers.

use tokio::sync::{mpsc, oneshot};

use crate::error::InferResult;

/// Maximum number of results taken from the mailbox at a time.
const HANDFUL: usize = 64;

/// The mailbox of one thread.
#[derive(Clone)]
pub(crate) struct Mailbox(mpsc::UnboundedSender<Letter>);

struct Letter {
    to: oneshot::Sender<InferResult>,
    result: InferResult,
}

/// The return address of one caller.
pub(crate) struct Address {
    mailbox: Mailbox,
    caller: oneshot::Sender<InferResult>,
}

impl Mailbox {
    /// Returns a mailbox and the task that empties the mailbox on the thread of the callers. The
    /// task ends when the mailbox and all addresses are dropped.
    pub(crate) fn open() -> (Self, impl Future<Output = ()>) {
        let (sender, mut letters) = mpsc::unbounded_channel();
        let empty = async move {
            let mut handful = Vec::with_capacity(HANDFUL);
            while letters.recv_many(&mut handful, HANDFUL).await > 0 {
                for Letter { to, result } in handful.drain(..) {
                    // Fails if the caller has left; the result is then not needed.
                    drop(to.send(result));
                }
            }
        };
        (Self(sender), empty)
    }

    /// Creates the address of a caller, and the receiver on which the caller waits.
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
