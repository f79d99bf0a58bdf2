//! How answers reach the threads that serve HTTP.
//!
//! To wake another thread costs a system call. So the answers to all callers of a thread are left
//! in its mailbox, which wakes it once, and are given to the callers on that thread.

use batchfleet_broker::Reply;
use tokio::sync::{mpsc, oneshot};

use crate::error::InferError;

/// How many answers are taken out at a time.
const HANDFUL: usize = 64;

/// What a caller is told.
pub(crate) type Answer = Result<Reply, InferError>;

/// The mailbox of one thread.
#[derive(Clone)]
pub(crate) struct Mailbox(mpsc::UnboundedSender<Letter>);

struct Letter {
    to: oneshot::Sender<Answer>,
    answer: Answer,
}

/// Where one caller waits for its answer.
pub(crate) struct Address {
    mailbox: Mailbox,
    caller: oneshot::Sender<Answer>,
}

impl Mailbox {
    /// A mailbox, and the task of its thread that empties it for as long as there are addresses.
    pub(crate) fn open() -> (Self, impl Future<Output = ()>) {
        let (sender, mut letters) = mpsc::unbounded_channel();
        let empty = async move {
            let mut handful = Vec::with_capacity(HANDFUL);
            while letters.recv_many(&mut handful, HANDFUL).await > 0 {
                for Letter { to, answer } in handful.drain(..) {
                    // A caller that has left needs no answer.
                    drop(to.send(answer));
                }
            }
        };
        (Self(sender), empty)
    }

    /// The address of one more caller of this thread, who waits for the answer.
    pub(crate) fn address(&self) -> (Address, oneshot::Receiver<Answer>) {
        let (caller, answer) = oneshot::channel();
        (Address { mailbox: self.clone(), caller }, answer)
    }
}

impl Address {
    /// Sends the caller its answer; `false` if it waits no more.
    pub(crate) fn send(self, answer: Answer) -> bool {
        let Self { mailbox, caller } = self;
        !caller.is_closed() && mailbox.0.send(Letter { to: caller, answer }).is_ok()
    }
}
