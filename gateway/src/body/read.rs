//! Reads a body as it arrives.

use std::{future::poll_fn, pin::Pin, time::Duration};

use actix_web::error::PayloadError;
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use tokio::time::{Instant, timeout_at};

use super::{Body, Share, too_large};
use batchfleet_oip::Problem;

use crate::error::InferError;

/// What a body must have sent of itself for each second more than its time.
const BYTES_A_SECOND: u32 = 1 << 20;

/// How long a body may take to be a fast one, and a second more for each mebibyte that came.
const FAST: Duration = Duration::from_secs(1);
/// The room that a body is given ahead of its first byte. With less, many more would be read at
/// once, most of them to be refused in the end, and whoever asks for little would wait for them all.
const HEAD_START: usize = 1 << 20;

/// What every body is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The most bytes, as sent and as inflated.
    pub(crate) bytes: usize,
    /// How long it may take, and a second more for each mebibyte that came.
    pub(crate) time: Duration,
}

/// Reads a whole body of `announced` bytes, or of as many as come.
///
/// Where it is known how much will come, there must be room for all of it, and some is kept free
/// ahead of what comes, so that of many large bodies some are refused early and the others get
/// through. But no more is kept than twice what has come, nor for a body that comes slowly: a few
/// who announce much and send little could keep everyone else out.
///
/// # Errors
///
/// 413 `too_large`: more bytes than it may have, announced or sent. 408 `body_timeout`: it came too
/// slowly. 503 `body_bytes`: there is no room. 400 `cancelled`: the sender broke off, or its chunks
/// are malformed, which the server does not tell apart.
pub(crate) async fn read<S>(
    stream: &mut S,
    announced: Option<u64>,
    bounds: Bounds,
    mut share: Share,
) -> Result<Body, InferError>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let announced = announced.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced.is_some_and(|length| length > bounds.bytes) {
        return Err(too_large(bounds.bytes).into());
    }
    share.resize(announced.unwrap_or(0))?;
    share.resize(ahead(announced, 0))?;
    let started = Instant::now();
    let mut body = BytesMut::new();
    loop {
        let fast_until = started + FAST + more_time(body.len());
        let is_ahead = share.bytes > body.len();
        let deadline =
            if is_ahead { fast_until } else { started + bounds.time + more_time(body.len()) };
        let next = poll_fn(|context| Pin::new(&mut *stream).poll_next(context));
        let chunk = match timeout_at(deadline, next).await {
            Err(_) if is_ahead => {
                share.resize(body.len())?;
                continue;
            }
            Err(_) => return Err(too_slow(body.len())),
            Ok(None) => break,
            Ok(Some(chunk)) => chunk.map_err(|error| broken_off(&error))?,
        };
        let length = body.len() + chunk.len();
        if length > bounds.bytes {
            return Err(too_large(bounds.bytes).into());
        }
        let is_fast = Instant::now() <= fast_until;
        share.resize(if is_fast { ahead(announced, length) } else { length })?;
        if length > body.capacity() {
            // At first what it may send soon, then all at once: growing would copy it.
            let room = announced.unwrap_or(0);
            let room = if length > HEAD_START { room } else { room.min(HEAD_START) };
            body.reserve(room.max(length) - body.len());
        }
        body.extend_from_slice(&chunk);
    }
    share.resize(body.len())?;
    Ok(Body { bytes: body.freeze(), share })
}

/// How much room a body is given of which so many bytes have come.
fn ahead(announced: Option<usize>, received: usize) -> usize {
    announced.unwrap_or(0).min(2 * received + HEAD_START).max(received)
}

/// How much longer a body may take because so many bytes have come.
fn more_time(received: usize) -> Duration {
    Duration::from_secs(1) * u32::try_from(received).unwrap_or(u32::MAX) / BYTES_A_SECOND
}

fn too_slow(received: usize) -> InferError {
    let message = format!("the body came too slowly: {received} bytes in time");
    Problem { status: 408, code: "body_timeout", message }.into()
}

fn broken_off(error: &PayloadError) -> InferError {
    Problem::bad("cancelled", format!("the body broke off or is malformed: {error}")).into()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        task::{Context, Poll},
    };

    use prometheus::IntGauge;
    use tokio::{sync::mpsc, time::sleep};

    use super::*;
    use crate::body::Budget;

    struct Sent(mpsc::UnboundedReceiver<Result<Bytes, PayloadError>>);

    impl Stream for Sent {
        type Item = Result<Bytes, PayloadError>;

        fn poll_next(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Self::Item>> {
            self.0.poll_recv(context)
        }
    }

    type Sender = mpsc::UnboundedSender<Result<Bytes, PayloadError>>;

    fn stream() -> (Sender, Sent) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Sent(receiver))
    }

    fn bounds(bytes: usize) -> Bounds {
        Bounds { bytes, time: Duration::from_secs(10) }
    }

    fn budget() -> Arc<Budget> {
        Budget::new(1 << 30, IntGauge::new("held", "for tests").unwrap())
    }

    /// The code of what comes of a body of which `piece` bytes come each `pause`, `pieces` times,
    /// and how long that took.
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
    async fn a_body_that_stalls_or_trickles_is_given_up_after_ten_seconds() {
        let second = Duration::from_secs(1);
        assert_eq!(trickle(1, 60 * second, 1).await, ("body_timeout", 10 * second));
        let (code, took) = trickle(1000, second / 10, 10_000).await;
        assert_eq!(code, "body_timeout");
        assert!(took >= 10 * second && took < 11 * second, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_may_take_a_second_more_for_each_mebibyte_that_came() {
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

    /// How much room a body has that announced so much, once so much has come and time has passed.
    async fn room(announced: usize, received: usize, wait: Duration) -> i64 {
        let gauge = IntGauge::new("held", "for tests").unwrap();
        let budget = Budget::new(1 << 30, gauge.clone());
        let (sender, mut stream) = stream();
        sender.send(Ok(vec![0; received].into())).unwrap();
        let body = read(&mut stream, Some(announced as u64), bounds(1 << 30), budget.share());
        tokio::pin!(body);
        assert!(tokio::time::timeout(wait, &mut body).await.is_err(), "it waits for the rest");
        gauge.get()
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_kept_ahead_of_a_fast_body_and_of_no_slow_one() {
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
    async fn a_body_for_which_there_is_no_room_is_refused_before_anything_comes() {
        let budget = Budget::new(100, IntGauge::new("held", "for tests").unwrap());
        let mut others = budget.share();
        others.resize(40).unwrap();
        for (announced, code) in [(61, "body_bytes"), (101, "too_large")] {
            let (_sender, mut stream) = stream();
            let read = read(&mut stream, Some(announced), bounds(100), budget.share()).await;
            assert_eq!(read.unwrap_err().code(), code);
        }
    }

    #[tokio::test]
    async fn a_sender_that_breaks_off_is_told_apart() {
        let (sender, mut stream) = stream();
        sender.send(Err(PayloadError::Incomplete(None))).unwrap();
        let error = read(&mut stream, Some(5), bounds(10), budget().share()).await.unwrap_err();
        assert_eq!(error.code(), "cancelled");
    }
}
