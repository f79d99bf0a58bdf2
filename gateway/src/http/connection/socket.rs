//! A connection between two requests and during one.
//!
//! actix-http bounds neither the requests that it reads ahead nor the answers that it keeps for a
//! client that does not read. It therefore gets one request at a time: [`Exchange`](super::exchange::Exchange) hands it the
//! bytes of one request, and the connection reads the next head only after the answer was sent.

use std::{
    future::Future,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use batchfleet_oip::Problem;
use bytes::{Buf, BufMut, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::io::poll_read_buf;

use super::{
    answer::AnswerWatch,
    chunks::{ChunkScanner, Scan},
    framing::{self, BodyFraming},
};
use crate::{
    door::Closing,
    error::InferError,
    http2::Preface,
    memory::{BudgetFull, MemoryShare},
};

/// Maximum number of bytes read from a connection in one turn. Without turns, a small request would
/// wait behind the large bodies of thousands of clients.
const TURN: usize = 8 << 10;
/// Maximum number of bytes read at a time outside of a body. A small request arrives in one piece.
const PIECE: usize = 16 << 10;
/// Maximum number of bytes of a large body that are read at a time: as many as actix reads.
const BODY_PIECE: usize = 32 << 10;
/// The bytes that a client has sent ahead of an answer at which no more are read.
const AHEAD: usize = 4 << 10;
/// The memory of a connection without a request, in bytes.
const IDLE_BYTES: usize = 4 << 10;
/// The memory of a request in work besides its head and the unsent answer, in bytes.
const EXCHANGE_BYTES: usize = 20 << 10;
/// Time limit for the rest of a body that no handler reads.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
/// The least speed at which a client must read its answer once the stall timeout has passed, in
/// bytes per second.
const LEAST_READ_RATE: u32 = 16 << 10;

/// The part of the memory budget beyond which large heads are refused, in percent. The rest is kept
/// for ordinary requests.
const HEADS_PERCENT: usize = 50;
/// The part of the memory budget beyond which slow readers are disconnected, in percent.
const UNSENT_PERCENT: usize = 75;

/// How a wait for a request or for an answer ended, if the connection cannot go on.
#[derive(Debug)]
pub(super) enum Ending {
    /// The client has closed the connection, or it broke.
    Closed,
    /// The client sent no request, or there is no memory for it.
    Refused(Problem),
    /// A new connection takes the place of this one, which has waited longest for a request.
    Crowded,
    /// The client reads its answer too slowly.
    SlowReader,
    /// The server ends the connection after the answer.
    Finished,
}

impl Ending {
    /// The reason in the metric of closed connections, if the gateway has cut the client off.
    pub(super) const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Closed | Self::Finished => None,
            Self::Refused(problem) => Some(problem.code),
            Self::SlowReader => Some("slow_reader"),
            Self::Crowded => Closing::Crowded.reason(),
        }
    }
}

impl From<Closing> for Ending {
    fn from(closing: Closing) -> Self {
        match closing {
            Closing::Crowded => Self::Crowded,
            Closing::Draining => Self::Closed,
        }
    }
}

/// What is left of the current request's body.
#[derive(Debug)]
enum Rest {
    Length(u64),
    Chunked(ChunkScanner),
    /// The chunks are malformed: the server gets everything, and refuses it.
    Malformed,
}

/// A connection of a client.
#[derive(Debug)]
pub(super) struct Connection<S> {
    pub(super) stream: S,
    /// Bytes received and not handed to the server.
    received: BytesMut,
    /// The number of received bytes at which the head is parsed again.
    parse_at: usize,
    /// Bytes of the request's head that the server has not read.
    head_left: usize,
    rest: Rest,
    /// Whether the handlers read the body from the connection; the server then knows of none.
    has_large_body: bool,
    /// Bytes left to read in the current turn.
    turn: usize,
    pub(super) answer: AnswerWatch,
    output: Output,
    share: MemoryShare,
}

/// The progress of sending an answer.
#[derive(Debug, Default)]
struct Output {
    /// Whether the stream has taken the whole answer.
    flushed: bool,
    sent: u64,
    /// Whether the answer waits for the client to read, and since when.
    blocked: Option<Blocked>,
    /// How long the answer has waited for the client before.
    blocked_before: Duration,
    /// Whether the memory of unsent answers is full.
    no_room: bool,
    /// Ends the wait for the rest of the request's body.
    discard: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Blocked {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl From<BudgetFull> for Ending {
    fn from(_: BudgetFull) -> Self {
        let error = InferError::ConnectionBytes;
        let (status, code, message) = (error.status(), error.code(), error.to_string());
        Self::Refused(Problem { status, code, message })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, share: MemoryShare) -> Self {
        Self {
            stream,
            received: BytesMut::new(),
            parse_at: 0,
            head_left: 0,
            rest: Rest::Length(0),
            has_large_body: false,
            turn: TURN,
            answer: AnswerWatch::default(),
            output: Output::default(),
            share,
        }
    }

    /// The stream, the bytes received and not handed to the server, and the memory of the connection.
    pub(super) fn into_parts(self) -> (S, BytesMut, MemoryShare) {
        (self.stream, self.received, self.share)
    }

    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Whether bytes of the next request have arrived.
    pub(super) fn has_begun(&self) -> bool {
        !self.received.is_empty()
    }

    /// Whether bytes may be left that the server has not read.
    pub(super) fn has_unread(&self) -> bool {
        self.has_begun() || !self.is_read()
    }

    /// Reserves the memory of a connection without a request, and releases the rest.
    pub(super) fn rest(&mut self) -> Result<(), BudgetFull> {
        if self.received.is_empty() {
            self.received = BytesMut::new();
        }
        self.share.resize(self.waiting_bytes())
    }

    fn waiting_bytes(&self) -> usize {
        IDLE_BYTES + self.received.capacity()
    }

    /// Waits for the first byte of the next request.
    pub(super) fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        if self.has_begun() { Poll::Ready(Ok(())) } else { self.poll_receive(context) }
    }

    /// Waits until the first bytes tell whether the client speaks HTTP/2.
    pub(super) fn poll_preface(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, Ending>> {
        loop {
            match Preface::of(&self.received) {
                Preface::Whole => return Poll::Ready(Ok(true)),
                Preface::Other => return Poll::Ready(Ok(false)),
                Preface::Partial => ready!(self.poll_receive(context))?,
            }
        }
    }

    /// Waits for the complete head of the next request, and hands it to the server.
    pub(super) fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        loop {
            if self.received.len() >= self.parse_at {
                if let Some(head) = framing::parse(&self.received).map_err(Ending::Refused)? {
                    head.hide_from_server(&mut self.received);
                    self.parse_at = 0;
                    return Poll::Ready(self.begin(&head));
                }
                // Parsing at every byte would take quadratic time.
                self.parse_at = 2 * self.received.len();
            }
            let before = self.received.len();
            ready!(self.poll_receive(context))?;
            let (bytes, most) = (self.waiting_bytes(), self.share.budget() / 100 * HEADS_PERCENT);
            match self.received.len() {
                ..=PIECE => self.share.resize(bytes)?,
                _ => self.share.resize_within(bytes, most)?,
            }
            if framing::has_empty_line(&self.received, before) {
                self.parse_at = 0;
            }
        }
    }

    fn begin(&mut self, head: &framing::Head) -> Result<(), Ending> {
        let bytes = self.waiting_bytes() + EXCHANGE_BYTES;
        self.share.resize(bytes)?;
        self.head_left = head.length;
        self.has_large_body = head.has_large_body();
        self.rest = match head.body {
            BodyFraming::Length(length) => Rest::Length(length),
            BodyFraming::Chunked => Rest::Chunked(ChunkScanner::new()),
        };
        self.output = Output::default();
        self.answer.reset();
        Ok(())
    }

    /// Reads and discards at most `left` bytes, until the client has closed the connection. Needs no
    /// memory but the stack.
    pub(super) fn poll_discard(&mut self, left: &mut usize, context: &mut Context<'_>) -> Poll<()> {
        while *left > 0 {
            let mut piece = [const { MaybeUninit::uninit() }; PIECE];
            let mut piece = ReadBuf::uninit(&mut piece);
            match ready!(self.poll_turn(context, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => {
                    *left = left.saturating_sub(piece.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }

    /// Reads a piece into `received`.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        let mut piece = [const { MaybeUninit::uninit() }; PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        match ready!(self.poll_turn(context, &mut piece)) {
            Ok(()) if !piece.filled().is_empty() => {
                self.received.extend_from_slice(piece.filled());
                Poll::Ready(Ok(()))
            }
            _ => Poll::Ready(Err(Ending::Closed)),
        }
    }

    /// Reads from the stream if the connection's turn is not over.
    fn poll_turn(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_next_turn(context));
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        self.turn = match read {
            Poll::Pending => TURN,
            Poll::Ready(_) => self.turn.saturating_sub(into.filled().len() - before),
        };
        read
    }

    /// Waits for the connection's next turn, if its turn is over.
    fn poll_next_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.turn > 0 {
            return Poll::Ready(());
        }
        self.turn = TURN;
        // More data may be ready: reschedule the task behind all other ready tasks.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the server has read the whole request.
    fn is_read(&self) -> bool {
        self.head_left == 0 && matches!(self.rest, Rest::Length(0))
    }

    /// Hands the server bytes of the current request.
    pub(super) fn poll_request(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head_left > 0 {
            let length = self.head_left.min(into.remaining());
            into.put_slice(&self.received[..length]);
            self.received.advance(length);
            self.head_left -= length;
            return Poll::Ready(Ok(()));
        }
        if self.is_read() {
            return self.poll_client(context);
        }
        if self.has_large_body {
            return Poll::Pending;
        }
        let before = into.filled().len();
        if self.received.is_empty() {
            ready!(self.poll_turn(context, into))?;
        } else {
            ready!(self.poll_next_turn(context));
            let length = self.received.len().min(into.remaining());
            into.put_slice(&self.received[..length]);
            self.received.advance(length);
        }
        let used = before + self.used(&into.filled()[before..]);
        if used < into.filled().len() {
            // The other bytes wait, ahead of those that wait already.
            let mut next = BytesMut::from(&into.filled()[used..]);
            next.extend_from_slice(&self.received);
            self.received = next;
            into.set_filled(used);
        }
        Poll::Ready(Ok(()))
    }

    /// The length in bytes of the part of a large body that no handler has read; `None` if the current request has no
    /// large body.
    pub(super) fn large_body(&self) -> Option<u64> {
        match self.rest {
            Rest::Length(left) if self.has_large_body => Some(left),
            _ => None,
        }
    }

    /// Reads bytes of a large body into `into`, as far as there is room. Returns their number: 0 at the end of the
    /// body.
    pub(super) fn poll_large_body(
        &mut self,
        context: &mut Context<'_>,
        into: impl BufMut,
    ) -> Poll<io::Result<usize>> {
        let Some(left @ 1..) = self.large_body() else { return Poll::Ready(Ok(0)) };
        let most = BODY_PIECE.min(usize::try_from(left).unwrap_or(usize::MAX));
        ready!(self.poll_next_turn(context));
        let mut into = into.limit(most);
        let length = if self.received.is_empty() {
            let read = poll_read_buf(Pin::new(&mut self.stream), context, &mut into);
            self.turn = match read {
                Poll::Pending => TURN,
                Poll::Ready(_) => 0,
            };
            ready!(read)?
        } else {
            let length = into.remaining_mut().min(self.received.len());
            into.put(self.received.split_to(length));
            length
        };
        if length == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.rest = Rest::Length(left - length as u64);
        if self.is_read() {
            // The server has to watch whether the client leaves.
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(length))
    }

    /// The number of `bytes` that belong to the body of the current request.
    fn used(&mut self, bytes: &[u8]) -> usize {
        match &mut self.rest {
            Rest::Length(left) => {
                let used = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= used as u64;
                used
            }
            Rest::Chunked(scanner) => match scanner.scan(bytes) {
                Scan::More => bytes.len(),
                Scan::End(used) => {
                    self.rest = Rest::Length(0);
                    used
                }
                Scan::Enough(used) => {
                    self.turn = 0;
                    used
                }
                Scan::Malformed => {
                    self.rest = Rest::Malformed;
                    bytes.len()
                }
            },
            Rest::Malformed => bytes.len(),
        }
    }

    /// Waits until the client leaves, while its request is in work. Bytes that it sends ahead are
    /// kept up to a limit.
    fn poll_client(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.received.len() < AHEAD {
            match ready!(self.poll_receive(context)) {
                Ok(()) => {}
                // The server takes a read without bytes for the end of the connection.
                Err(_) => return Poll::Ready(Ok(())),
            }
        }
        Poll::Pending
    }

    /// Waits until the answer has been sent and the request read; the next request may then begin.
    pub(super) fn poll_answered(
        &mut self,
        stall_timeout: Duration,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Ending>> {
        if self.output.no_room {
            return Poll::Ready(Err(Ending::SlowReader));
        }
        if self.output.flushed {
            if self.is_read() {
                return Poll::Ready(Ok(()));
            }
            let until = Instant::now() + DISCARD_TIMEOUT;
            let timer = self.output.discard.get_or_insert_with(|| Box::pin(sleep_until(until)));
            ready!(timer.as_mut().poll(context));
            return Poll::Ready(Err(Ending::Finished));
        }
        let Output { sent, blocked_before, blocked, .. } = &mut self.output;
        let Some(Blocked { since, timer }) = blocked else { return Poll::Pending };
        loop {
            ready!(timer.as_mut().poll(context));
            let reading = Duration::from_secs(1) * u32::try_from(*sent).unwrap_or(u32::MAX);
            let allowed = stall_timeout + reading / LEAST_READ_RATE;
            let deadline = *since + allowed.saturating_sub(*blocked_before);
            if deadline <= Instant::now() {
                return Poll::Ready(Err(Ending::SlowReader));
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// Counts what the stream takes of an answer, and the memory of the rest.
    pub(super) fn wrote(&mut self, unsent: usize, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(sent)) => self.output.sent += *sent as u64,
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let since = Instant::now();
                let blocked = || Blocked { since, timer: Box::pin(sleep_until(since)) };
                self.output.blocked.get_or_insert_with(blocked);
                let bytes = self.waiting_bytes() + EXCHANGE_BYTES + unsent;
                let most = self.share.budget() / 100 * UNSENT_PERCENT;
                self.output.no_room |= self.share.resize_within(bytes, most).is_err();
            }
        }
    }

    /// The stream has taken all bytes that the server has written.
    pub(super) fn flushed(&mut self) {
        if let Some(Blocked { since, .. }) = self.output.blocked.take() {
            self.output.blocked_before += since.elapsed();
        }
        self.output.flushed = self.answer.is_taken();
    }
}
