//! Reads a request body as it arrives.

use std::{fmt::Display, future::poll_fn, time::Duration};

use batchfleet_oip::Problem;
use tokio::time::{Instant, timeout_at};

use super::{
    content::{Body, too_large},
    source::{Buffer, HEAD_START, Source},
};
use crate::{error::InferError, memory::MemoryShare};

/// Number of received bytes that extends each time limit of a body by 1 s.
const BYTES_A_SECOND: u32 = 1 << 20;

/// Time within which a body counts as fast, plus 1 s for each MiB received.
const FAST: Duration = Duration::from_secs(1);

/// The limits of every body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Maximum size in bytes, both compressed and inflated.
    pub(crate) bytes: usize,
    /// The time to receive the body, plus 1 s for each MiB received.
    pub(crate) time: Duration,
}

/// Reads a whole body. `announced` is the length from the request head, if present.
///
/// # Errors
///
/// As [`BodyReader::all`].
pub(crate) async fn read<S: Source>(
    source: &mut S,
    announced: Option<u64>,
    bounds: Bounds,
    share: MemoryShare,
) -> Result<Body, InferError> {
    BodyReader::begin(source, announced, bounds, share)?.all().await
}

/// A body that is being read.
///
/// The budget must have room for all of an announced body at the start. While the body arrives, its
/// share stays ahead of the received bytes, so that of many large bodies some are refused early and
/// the others complete. The share of a fast body is at most twice the received bytes plus 1 MiB; a
/// slow body has no lead. Otherwise a few clients that announce much and send little could hold the
/// whole budget.
pub(crate) struct BodyReader<'s, S> {
    source: &'s mut S,
    announced: Option<usize>,
    bounds: Bounds,
    share: MemoryShare,
    started: Instant,
    body: Buffer,
}

impl<'s, S: Source> BodyReader<'s, S> {
    /// Begins to read a body. `announced` is the length from the request head, if present.
    ///
    /// # Errors
    ///
    /// 413 `too_large`: the announced length exceeds the limit. 503 `body_bytes`: the budget has no
    /// room.
    pub(crate) fn begin(
        source: &'s mut S,
        announced: Option<u64>,
        bounds: Bounds,
        mut share: MemoryShare,
    ) -> Result<Self, InferError> {
        let announced = announced.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced.is_some_and(|length| length > bounds.bytes) {
            return Err(too_large(bounds.bytes).into());
        }
        share.resize(announced.unwrap_or(0))?;
        share.resize(ahead(announced, 0))?;
        let (started, body) = (Instant::now(), Buffer::new(announced));
        Ok(Self { source, announced, bounds, share, started, body })
    }

    /// Reads the whole body.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin), of the received length. 408 `body_timeout`: the body arrived too
    /// slowly. 400 `cancelled`: the client aborted the body, or its chunks are malformed; the server
    /// reports both alike.
    pub(crate) async fn all(mut self) -> Result<Body, InferError> {
        while self.more().await? {}
        let Self { body, mut share, .. } = self;
        share.resize(body.bytes().len())?;
        Ok(Body { bytes: body.into_bytes(), share })
    }

    /// Reads until at least `length` bytes have arrived, and returns all bytes so far; fewer if the body
    /// has ended.
    ///
    /// # Errors
    ///
    /// As [`all`](Self::all).
    pub(crate) async fn reach(&mut self, length: usize) -> Result<&[u8], InferError> {
        while self.body.bytes().len() < length && self.more().await? {}
        Ok(self.body.bytes())
    }

    /// Reads the rest of the body after `turn`, and drops it, so that the client can read the answer and
    /// use the connection again. Needs no memory, and less time of the processor than [`all`](Self::all).
    ///
    /// # Errors
    ///
    /// As [`all`](Self::all).
    pub(crate) async fn discard(self, turn: impl Future<Output = ()>) -> Result<(), InferError> {
        let Self { source, bounds, share, started, body, .. } = self;
        let mut received = body.bytes().len();
        drop((body, share));
        turn.await;
        loop {
            let deadline = started + bounds.time + more_time(received);
            let skipped = poll_fn(|context| source.poll_skip(context));
            let skipped = timeout_at(deadline, skipped).await.map_err(|_| too_slow(received))?;
            let Some(skipped) = skipped else { return Ok(()) };
            received += skipped.map_err(aborted)?;
            if received > bounds.bytes {
                return Err(too_large(bounds.bytes).into());
            }
        }
    }

    /// Waits for more of the body; `false` at its end.
    async fn more(&mut self) -> Result<bool, InferError> {
        let Self { source, announced, bounds, share, started, body } = self;
        let received = body.bytes().len();
        let fast_until = *started + FAST + more_time(received);
        let is_ahead = share.bytes() > received;
        let deadline =
            if is_ahead { fast_until } else { *started + bounds.time + more_time(received) };
        let more = poll_fn(|context| source.poll_more(context, body));
        match timeout_at(deadline, more).await {
            Err(_) if is_ahead => {
                share.resize(received)?;
                return Ok(true);
            }
            Err(_) => return Err(too_slow(received)),
            Ok(None) => return Ok(false),
            Ok(Some(more)) => more.map_err(aborted)?,
        }
        let length = body.bytes().len();
        if length > bounds.bytes {
            return Err(too_large(bounds.bytes).into());
        }
        let is_fast = Instant::now() <= fast_until;
        share.resize(if is_fast { ahead(*announced, length) } else { length })?;
        Ok(true)
    }
}

/// The share of a fast body: the received bytes, and the lead ahead of them.
fn ahead(announced: Option<usize>, received: usize) -> usize {
    announced.unwrap_or(0).min(2 * received + HEAD_START).max(received)
}

/// The extension of the time limits after `received` bytes.
fn more_time(received: usize) -> Duration {
    Duration::from_secs(1) * u32::try_from(received).unwrap_or(u32::MAX) / BYTES_A_SECOND
}

fn too_slow(received: usize) -> InferError {
    let message = format!("the body arrived too slowly: {received} bytes in time");
    Problem { status: 408, code: "body_timeout", message }.into()
}

fn aborted(error: impl Display) -> InferError {
    Problem::bad("cancelled", format!("the body was aborted or is malformed: {error}")).into()
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        pin::Pin,
        sync::Arc,
        task::{Context, Poll},
    };

    use bytes::Bytes;
    use futures_core::Stream;
    use prometheus::IntGauge;
    use tokio::{sync::mpsc, time::sleep};

    use super::*;
    use crate::memory::MemoryBudget;

    type Chunk = Result<Bytes, &'static str>;

    struct Sent(mpsc::UnboundedReceiver<Chunk>);

    impl Stream for Sent {
        type Item = Chunk;

        fn poll_next(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Self::Item>> {
            self.0.poll_recv(context)
        }
    }

    fn stream() -> (mpsc::UnboundedSender<Chunk>, Sent) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Sent(receiver))
    }

    fn bounds(bytes: usize) -> Bounds {
        Bounds { bytes, time: Duration::from_secs(10) }
    }

    fn budget() -> Arc<MemoryBudget> {
        MemoryBudget::new(1 << 30, IntGauge::new("held", "for tests").unwrap())
    }

    /// Reads a body that arrives as `pieces` pieces of `piece` bytes, each after a `pause`. Returns
    /// the error code or `read`, and the elapsed time.
    async fn trickle(piece: usize, pause: Duration, pieces: usize) -> (&'static str, Duration) {
        let (sender, mut stream) = stream();
        tokio::spawn(async move {
            for _ in 0..pieces {
                sleep(pause).await;
                if sender.send(Ok(vec![b' '; piece].into())).is_err() {
                    return;
                }
            }
        });
        let started = Instant::now();
        let read = read(&mut stream, None, bounds(64 << 20), budget().share()).await;
        (read.map_or_else(|error| error.code(), |_| "read"), started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_or_trickles_is_refused_after_ten_seconds() {
        let second = Duration::from_secs(1);
        assert_eq!(trickle(1, 60 * second, 1).await, ("body_timeout", 10 * second));
        let (code, took) = trickle(1000, second / 10, 10_000).await;
        assert_eq!(code, "body_timeout");
        assert!(took >= 10 * second && took < 11 * second, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_may_take_one_more_second_for_each_mebibyte_received() {
        let second = Duration::from_secs(1);
        assert_eq!(trickle(1 << 20, second, 64).await, ("read", 64 * second));
        let (code, took) = trickle(1 << 19, second, 64).await;
        assert_eq!((code, took.as_secs()), ("body_timeout", 19), "half as fast");
    }

    #[tokio::test]
    async fn a_chunked_body_is_refused_with_the_chunk_that_exceeds_the_limit() {
        let budget = budget();
        let (sender, mut stream) = stream();
        for _ in 0..3 {
            sender.send(Ok(Bytes::from_static(b"12345"))).unwrap();
        }
        let error = read(&mut stream, None, bounds(10), budget.share()).await.unwrap_err();
        assert_eq!(error.code(), "too_large");
        let (sender, mut stream) = self::stream();
        sender.send(Ok(Bytes::from_static(b"1234567890"))).unwrap();
        drop(sender);
        let body = read(&mut stream, None, bounds(10), budget.share()).await.unwrap();
        assert_eq!(body.bytes, "1234567890");
    }

    /// The share of a body of `announced` bytes after `received` bytes and a time of `wait`.
    async fn room(announced: usize, received: usize, wait: Duration) -> i64 {
        let gauge = IntGauge::new("held", "for tests").unwrap();
        let budget = MemoryBudget::new(1 << 30, gauge.clone());
        let (sender, mut stream) = stream();
        sender.send(Ok(vec![0; received].into())).unwrap();
        let body = read(&mut stream, Some(announced as u64), bounds(1 << 30), budget.share());
        tokio::pin!(body);
        assert!(tokio::time::timeout(wait, &mut body).await.is_err(), "the rest is missing");
        gauge.get()
    }

    #[tokio::test(start_paused = true)]
    async fn the_share_runs_ahead_of_a_fast_body_and_not_of_a_slow_one() {
        let (soon, late) = (Duration::from_millis(900), Duration::from_millis(1100));
        let gauged = |bytes: usize| i64::try_from(bytes).unwrap();
        for (announced, received, wait, held) in [
            (100, 40, soon, 100),
            (1 << 30, 0, soon, HEAD_START),
            (1 << 30, 1 << 20, soon, (2 << 20) + HEAD_START),
            (1 << 30, 1 << 20, late, (2 << 20) + HEAD_START),
            (1 << 30, 1 << 20, late + soon, 1 << 20),
            (100, 40, late, 40),
        ] {
            let held_now = room(announced, received, wait).await;
            assert_eq!(held_now, gauged(held), "{received} of {announced} after {wait:?}");
        }
    }

    #[tokio::test]
    async fn a_body_without_room_is_refused_before_its_first_byte() {
        let budget = MemoryBudget::new(100, IntGauge::new("held", "for tests").unwrap());
        let mut others = budget.share();
        others.resize(40).unwrap();
        for (announced, code) in [(61, "body_bytes"), (101, "too_large")] {
            let (_sender, mut stream) = stream();
            let read = read(&mut stream, Some(announced), bounds(100), budget.share()).await;
            assert_eq!(read.unwrap_err().code(), code);
        }
    }

    #[tokio::test]
    async fn an_aborted_body_is_cancelled() {
        let (sender, mut stream) = stream();
        sender.send(Err("incomplete")).unwrap();
        let error = read(&mut stream, Some(5), bounds(10), budget().share()).await.unwrap_err();
        assert_eq!(error.code(), "cancelled");
    }

    #[tokio::test]
    async fn the_beginning_of_a_body_is_known_before_the_rest() {
        let budget = budget();
        let (sender, mut stream) = stream();
        for part in ["{", "}12", "345"] {
            sender.send(Ok(Bytes::from_static(part.as_bytes()))).unwrap();
        }
        let mut reader =
            BodyReader::begin(&mut stream, Some(7), bounds(10), budget.share()).unwrap();
        assert_eq!(reader.reach(2).await.unwrap(), b"{}12");
        drop(sender);
        assert_eq!(reader.all().await.unwrap().bytes, "{}12345");
    }

    #[tokio::test]
    async fn a_discarded_body_needs_no_memory_and_is_read_to_its_end() {
        let gauge = IntGauge::new("held", "for tests").unwrap();
        let budget = MemoryBudget::new(1 << 30, gauge.clone());
        let (sender, mut stream) = stream();
        sender.send(Ok(vec![0; 1000].into())).unwrap();
        let mut reader =
            BodyReader::begin(&mut stream, Some(3000), bounds(3000), budget.share()).unwrap();
        reader.reach(2).await.unwrap();
        assert_eq!(gauge.get(), 3000);
        let held_at_its_turn = Cell::new(None);
        let turn = async { held_at_its_turn.set(Some(gauge.get())) };
        let (discard, rest) = (reader.discard(turn), async {
            sender.send(Ok(vec![0; 2000].into())).unwrap();
            drop(sender);
        });
        let (discarded, ()) = tokio::join!(discard, rest);
        assert!(discarded.is_ok(), "{discarded:?}");
        assert_eq!(held_at_its_turn.get(), Some(0));
        assert!(stream.0.is_closed() && stream.0.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_discarded_body_has_the_limits_of_any_body() {
        let (sender, mut stream) = stream();
        let at_once = std::future::ready;
        let slow = BodyReader::begin(&mut stream, None, bounds(10), budget().share()).unwrap();
        let slow = slow.discard(at_once(())).await.unwrap_err();
        assert_eq!(slow.code(), "body_timeout");
        sender.send(Ok(vec![0; 11].into())).unwrap();
        let large = BodyReader::begin(&mut stream, None, bounds(10), budget().share()).unwrap();
        let large = large.discard(at_once(())).await.unwrap_err();
        assert_eq!(large.code(), "too_large");
    }
}
