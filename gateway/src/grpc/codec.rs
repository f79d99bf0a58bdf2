//! The frames of gRPC messages: a flag, the length, and the message, which may be compressed.

use std::io::Write;

use batchfleet_oip::Problem;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use crate::body::Encoding;

/// The length of a frame's head.
pub(super) const HEAD: usize = 5;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) is_compressed: bool,
    pub(super) length: u32,
}

impl FrameHead {
    /// Reads the head of a frame.
    ///
    /// # Errors
    ///
    /// The flag is neither 0 nor 1: the bytes are no frame.
    pub(super) fn parse([flag, length @ ..]: [u8; HEAD]) -> Result<Self, Problem> {
        if flag > 1 {
            let message = format!("the message is malformed: its compressed flag is {flag}");
            return Err(Problem::bad("bad_message", message));
        }
        Ok(Self { is_compressed: flag == 1, length: u32::from_be_bytes(length) })
    }

    fn bytes(self) -> [u8; HEAD] {
        let [a, b, c, d] = self.length.to_be_bytes();
        [u8::from(self.is_compressed), a, b, c, d]
    }
}

/// Reads the header `grpc-encoding`; `None` if messages are not compressed.
///
/// # Errors
///
/// 415: an unknown encoding.
pub(super) fn encoding(value: Option<&[u8]>) -> Result<Option<Encoding>, Problem> {
    match value {
        None | Some(b"identity") => Ok(None),
        Some(b"gzip") => Ok(Some(Encoding::Gzip)),
        Some(b"deflate") => Ok(Some(Encoding::Deflate)),
        Some(_) => Err(Problem {
            status: 415,
            code: "unsupported_media_type",
            message: "grpc-encoding may be gzip, deflate or identity".to_owned(),
        }),
    }
}

/// Puts the pieces of a message into a frame; compressed with gzip if `compress` is set.
///
/// # Errors
///
/// 500: the message has 4 GiB or more.
pub(super) fn frame(mut pieces: Vec<Bytes>, compress: bool) -> Result<Vec<Bytes>, Problem> {
    if compress {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let failed = |error: std::io::Error| Problem::internal(error.to_string());
        pieces.iter().try_for_each(|piece| encoder.write_all(piece)).map_err(failed)?;
        pieces = vec![encoder.finish().map_err(failed)?.into()];
    }
    let length = u32::try_from(pieces.iter().map(Bytes::len).sum::<usize>())
        .map_err(|_| Problem::internal("the answer has 4 GiB or more"))?;
    let head = FrameHead { is_compressed: compress, length }.bytes();
    match pieces.first_mut() {
        // The first piece of an answer is small.
        Some(first) if first.len() <= 64 << 10 => *first = [&head, &first[..]].concat().into(),
        _ => pieces.insert(0, Bytes::copy_from_slice(&head)),
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn the_head_holds_the_flag_and_the_length() {
        let head = FrameHead { is_compressed: true, length: 258 };
        assert_eq!(head.bytes(), [1, 0, 0, 1, 2]);
        assert_eq!(FrameHead::parse(head.bytes()), Ok(head));
        assert_eq!(FrameHead::parse(*b"{\"inp").unwrap_err().code, "bad_message");
    }

    #[test]
    fn pieces_become_one_frame() {
        let large = Bytes::from(vec![7; 100 << 10]);
        for pieces in [vec![], vec![Bytes::from("ab"), large.clone()], vec![large.clone()]] {
            let message = pieces.concat();
            let plain = frame(pieces.clone(), false).unwrap().concat();
            assert_eq!(&plain[HEAD..], message);
            assert_eq!(plain[1..HEAD], u32::try_from(message.len()).unwrap().to_be_bytes());
            let compressed = frame(pieces, true).unwrap().concat();
            let mut inflated = Vec::new();
            GzDecoder::new(&compressed[HEAD..]).read_to_end(&mut inflated).unwrap();
            assert_eq!((compressed[0], inflated), (1, message));
        }
        let shared = frame(vec![Bytes::from("a"), large.clone()], false).unwrap();
        assert_eq!(shared[1].as_ptr(), large.as_ptr());
    }

    #[test]
    fn only_known_encodings_are_taken() {
        assert_eq!(encoding(None), Ok(None));
        assert_eq!(encoding(Some(b"identity")), Ok(None));
        assert_eq!(encoding(Some(b"gzip")), Ok(Some(Encoding::Gzip)));
        assert_eq!(encoding(Some(b"snappy")).unwrap_err().status, 415);
    }
}
