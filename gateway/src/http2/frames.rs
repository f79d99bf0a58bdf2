//! Follows the frames of an HTTP/2 client by their heads: which streams the client has opened, and which
//! is the last one that a connection serves before it ends.

use bytes::{BufMut, BytesMut};

/// The length of what a client sends before its first frame.
const PREFACE: usize = 24;
/// The length of the head of a frame: length, type, flags and stream.
const HEAD: usize = 9;
/// The types of frames that matter here.
const HEADERS: u8 = 1;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// The flag of an answer to a PING frame.
const ACK: u8 = 1;
/// The payload of the PING frame that h2 sends between its two GOAWAY frames.
const SHUTDOWN: u64 = 0x0b7b_a2f0_8b9b_fe54;

/// The frames that a client has sent so far.
#[derive(Debug)]
pub(super) struct Frames {
    /// The head of the current frame.
    head: [u8; HEAD],
    /// The number of bytes of the head that have arrived.
    known: usize,
    /// The length of the payload that has not arrived, once the head has.
    left: usize,
    /// The last eight bytes of PING frames.
    ping: u64,
    /// The highest stream that the client has opened.
    opened: u32,
    /// The last stream that is served, once the client has answered the PING frame of a shutdown.
    last: Option<u32>,
}

impl Default for Frames {
    fn default() -> Self {
        Self { head: [0; HEAD], known: HEAD, left: PREFACE, ping: 0, opened: 0, last: None }
    }
}

impl Frames {
    /// Whether the client has answered the PING frame of a shutdown.
    pub(super) fn know_last_stream(&self) -> bool {
        self.last.is_some()
    }

    /// Follows `bytes` up to the answer to the PING frame of a shutdown. Returns how many bytes these are.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && !self.know_last_stream() {
            rest = if self.is_between_frames() {
                self.take_head(rest)
            } else {
                self.take_payload(rest).1
            };
        }
        bytes.len() - rest.len()
    }

    /// Appends `bytes` to `kept`, without the window updates of streams after the last one.
    pub(super) fn keep(&mut self, bytes: &[u8], kept: &mut BytesMut) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.is_between_frames() {
                rest = self.take_head(rest);
                if self.known == HEAD && !self.is_late_update() {
                    kept.put_slice(&self.head);
                }
            } else {
                let (payload, next) = self.take_payload(rest);
                if !self.is_late_update() {
                    kept.put_slice(payload);
                }
                rest = next;
            }
        }
    }

    fn is_between_frames(&self) -> bool {
        self.known < HEAD || self.left == 0
    }

    fn take_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.known == HEAD {
            self.known = 0;
        }
        let (taken, rest) = bytes.split_at(bytes.len().min(HEAD - self.known));
        self.head[self.known..self.known + taken.len()].copy_from_slice(taken);
        self.known += taken.len();
        if self.known == HEAD {
            let [a, b, c, ..] = self.head;
            self.left = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.kind() == HEADERS {
                self.opened = self.opened.max(self.stream());
            }
        }
        rest
    }

    fn take_payload<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let (payload, rest) = bytes.split_at(bytes.len().min(self.left));
        self.left -= payload.len();
        if self.kind() == PING {
            self.ping = payload.iter().fold(self.ping, |ping, byte| ping << 8 | u64::from(*byte));
            if self.left == 0 && self.flags() & ACK != 0 && self.ping == SHUTDOWN {
                self.last.get_or_insert(self.opened);
            }
        }
        (payload, rest)
    }

    fn is_late_update(&self) -> bool {
        self.kind() == WINDOW_UPDATE && self.last.is_some_and(|last| self.stream() > last)
    }

    fn kind(&self) -> u8 {
        self.head[3]
    }

    fn flags(&self) -> u8 {
        self.head[4]
    }

    fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.head;
        u32::from_be_bytes([a & 0x7f, b, c, d])
    }
}

#[cfg(test)]
pub(super) mod samples {
    //! Frames of clients.

    pub(crate) const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = super::HEADERS;
    pub(crate) const WINDOW_UPDATE: u8 = super::WINDOW_UPDATE;

    pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let (length, stream) = (&length[1..], stream.to_be_bytes());
        [length, &[kind, flags], &stream, payload].concat()
    }

    /// The answer to the PING frame of a shutdown.
    pub(crate) fn shutdown_ack() -> Vec<u8> {
        frame(super::PING, super::ACK, 0, &super::SHUTDOWN.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{
        samples::{DATA, START, frame, shutdown_ack},
        *,
    };

    /// What is left of `bytes`, which arrive in pieces of these sizes.
    fn kept(frames: &mut Frames, bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut kept = BytesMut::new();
        let mut sizes = sizes.iter().copied().cycle();
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(1).min(rest.len());
            let (piece, next) = rest.split_at(size);
            let early = frames.follow(piece);
            kept.put_slice(&piece[..early]);
            frames.keep(&piece[early..], &mut kept);
            rest = next;
        }
        kept.to_vec()
    }

    #[test]
    fn only_the_answer_to_the_ping_of_a_shutdown_tells_the_last_stream() {
        let ping = SHUTDOWN.to_be_bytes();
        for other in
            [frame(PING, 0, 0, &ping), frame(PING, ACK, 0, b"12345678"), frame(DATA, ACK, 1, &ping)]
        {
            let mut frames = Frames::default();
            let sent = [START, &other].concat();
            assert_eq!(frames.follow(&sent), sent.len());
            assert!(!frames.know_last_stream());
        }
        let mut frames = Frames::default();
        let sent = [START, &frame(HEADERS, 0, 5, b""), &shutdown_ack()].concat();
        let more = [&sent[..], b"more"].concat();
        assert_eq!(frames.follow(&more), sent.len());
        assert_eq!(frames.last, Some(5));
    }

    proptest! {
        #[test]
        fn only_window_updates_of_late_streams_are_left_out(
            early in vec((0_u8..10, 0_u32..20, vec(any::<u8>(), 0..20)), 0..8),
            late in vec((0_u8..10, 0_u32..30, vec(any::<u8>(), 0..20)), 0..8),
            sizes in vec(1_usize..40, 1..8),
        ) {
            let join = |all: &[(u8, u32, Vec<u8>)]| -> Vec<u8> {
                all.iter().flat_map(|(kind, stream, payload)| frame(*kind, 0, *stream, payload)).collect()
            };
            let opened = early.iter().filter(|(kind, ..)| *kind == HEADERS);
            let last = opened.map(|(_, stream, _)| *stream).max().unwrap_or(0);
            let before = [START.to_vec(), join(&early), shutdown_ack()].concat();
            let sent = [&before[..], &join(&late)].concat();
            let mut shown = late;
            shown.retain(|(kind, stream, _)| *kind != WINDOW_UPDATE || *stream <= last);
            let shown = [before, join(&shown)].concat();
            prop_assert_eq!(kept(&mut Frames::default(), &sent, &sizes), shown);
        }
    }
}
