//! Finds the end of a chunked request body. Pure.
//!
//! Accepts what the decoder of actix accepts, which reads the same bytes afterwards. Errors are left
//! to that decoder.

/// The most chunks that the server gets at a time. It keeps some memory for each of them, even if
/// they have one byte.
const MOST_CHUNKS: usize = 128;

/// What a chunk scanner has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// The body continues after the scanned bytes.
    More,
    /// The body ends after this number of the scanned bytes.
    End(usize),
    /// This number of the scanned bytes has the most chunks that the server gets at a time; the body
    /// continues after them.
    Enough(usize),
    /// The bytes are no chunks.
    Malformed,
}

/// The position of a scanner in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkScanner {
    state: State,
    /// The size of the chunk, or the bytes of the chunk that are still to come.
    left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    FirstDigit,
    Digits,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Trailer,
    TrailerLf,
    LastLf,
}

impl ChunkScanner {
    /// A scanner at the start of a body.
    pub(super) fn new() -> Self {
        Self { state: State::FirstDigit, left: 0 }
    }

    /// Scans the next bytes of the body.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scan {
        let (mut at, mut chunks) = (0, 0);
        while at < bytes.len() {
            if self.state == State::Data {
                let data = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += data;
                self.left -= data as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                    chunks += 1;
                    if chunks == MOST_CHUNKS {
                        return Scan::Enough(at);
                    }
                }
                continue;
            }
            let is_end = self.state == State::LastLf && bytes[at] == b'\n';
            match self.next(bytes[at]) {
                Some(state) => self.state = state,
                None => return Scan::Malformed,
            }
            at += 1;
            if is_end {
                return Scan::End(at);
            }
        }
        Scan::More
    }

    /// The state after a byte that is no data; `None` if the byte may not stand there.
    fn next(&mut self, byte: u8) -> Option<State> {
        Some(match (self.state, byte) {
            (State::FirstDigit | State::Digits, digit) if digit.is_ascii_hexdigit() => {
                let digit = u64::from(char::from(digit).to_digit(16)?);
                let size = if self.state == State::FirstDigit { 0 } else { self.left };
                self.left = size.checked_mul(16)? + digit;
                State::Digits
            }
            (State::Digits | State::Extension, b'\r') => State::SizeLf,
            (State::Digits, b' ' | b'\t' | b';') => State::Extension,
            (State::Extension, byte) if byte >= b' ' && byte != 0x7f || byte == b'\t' => {
                State::Extension
            }
            (State::SizeLf, b'\n') if self.left > 0 => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::LineStart, b'\r') => State::LastLf,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::LineStart | State::Trailer, _) => State::Trailer,
            (State::SizeLf | State::TrailerLf, b'\n') => State::LineStart,
            (State::DataLf | State::LastLf, b'\n') => State::FirstDigit,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans `bytes` in pieces of `piece` bytes.
    fn scan(bytes: &[u8], piece: usize) -> Scan {
        let mut scanner = ChunkScanner::new();
        for (index, piece_bytes) in bytes.chunks(piece).enumerate() {
            match scanner.scan(piece_bytes) {
                Scan::More => {}
                Scan::Enough(_) => panic!("the body has few chunks"),
                Scan::End(used) => return Scan::End(index * piece + used),
                Scan::Malformed => return Scan::Malformed,
            }
        }
        Scan::More
    }

    #[test]
    fn the_end_is_found_however_the_bytes_arrive() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"5\r\nhello\r\n0\r\n\r\n",
            b"5;name=value\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n",
            b"1 \r\na\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n",
        ] {
            let with_next = [body, b"GET / HTTP/1.1\r\n\r\n"].concat();
            for piece in 1..=with_next.len() {
                assert_eq!(scan(&with_next, piece), Scan::End(body.len()), "{piece}");
                assert_eq!(scan(&body[..body.len() - 1], piece), Scan::More, "{piece}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_chunks_are_malformed() {
        for body in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"0x10\r\n",
            b"5\nhello",
            b"5\r\nhello0\r\n",
            b"5\r\nhello\n",
            b"1;a\nb\r\n",
            b"ffffffffffffffffff\r\n",
            b"0\r\nTrailer: x\rX",
        ] {
            for piece in [1, body.len()] {
                assert_eq!(
                    scan(body, piece),
                    Scan::Malformed,
                    "{:?}",
                    String::from_utf8_lossy(body)
                );
            }
        }
    }

    #[test]
    fn many_small_chunks_are_handed_over_in_parts() {
        let mut body = b"1\r\nx\r\n".repeat(3 * MOST_CHUNKS);
        body.extend_from_slice(b"0\r\n\r\n");
        let (mut scanner, mut at, mut parts) = (ChunkScanner::new(), 0, 0);
        loop {
            match scanner.scan(&body[at..]) {
                Scan::Enough(used) => (at, parts) = (at + used, parts + 1),
                end => break assert_eq!(end, Scan::End(body.len() - at)),
            }
        }
        assert_eq!(parts, 3);
    }
}
