//! Recognizes HTTP/2 by the first bytes of a client, which are fixed. Pure.

/// What an HTTP/2 client sends before its first frame.
const BYTES: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a client tell about its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preface {
    /// The client speaks HTTP/2.
    Whole,
    /// The client may speak HTTP/2: more bytes are needed.
    Partial,
    /// The client speaks another protocol.
    Other,
}

impl Preface {
    /// Compares the first bytes of a client.
    pub(crate) fn of(received: &[u8]) -> Self {
        if received.starts_with(BYTES) {
            Self::Whole
        } else if BYTES.starts_with(received) {
            Self::Partial
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol_as_soon_as_they_can() {
        for length in 0..BYTES.len() {
            assert_eq!(Preface::of(&BYTES[..length]), Preface::Partial, "{length}");
        }
        assert_eq!(Preface::of(BYTES), Preface::Whole);
        assert_eq!(Preface::of(&[BYTES, b"\0\0\0\x04"].concat()), Preface::Whole);
        for other in ["G", "POST", "PUT / HTTP/1.1", "PRI * HTTP/2.0\r\n\r\nXX"] {
            assert_eq!(Preface::of(other.as_bytes()), Preface::Other, "{other}");
        }
    }
}
