//! Inflates compressed bodies, within the same bounds as any other body.

use std::io::{self, Read};

use flate2::bufread::{GzDecoder, ZlibDecoder};

use batchfleet_oip::Problem;

use super::content::{Body, too_large};
use crate::error::InferError;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// RFC 1952, one member.
    Gzip,
    /// The zlib format, RFC 1950, which HTTP calls "deflate".
    Deflate,
}

impl Encoding {
    /// Reads the values of `Content-Encoding`; `None` if the body is not compressed.
    ///
    /// # Errors
    ///
    /// 415: an unknown encoding, or several encodings.
    pub(crate) fn parse<'a>(
        mut values: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Option<Self>, Problem> {
        let value = values.next().map(<[u8]>::to_ascii_lowercase);
        match (value.as_deref().map(<[u8]>::trim_ascii), values.next()) {
            (None | Some(b"identity"), None) => Ok(None),
            (Some(b"gzip" | b"x-gzip"), None) => Ok(Some(Self::Gzip)),
            (Some(b"deflate"), None) => Ok(Some(Self::Deflate)),
            _ => Err(Problem {
                status: 415,
                code: "unsupported_media_type",
                message: "content-encoding may be gzip, deflate or none".to_owned(),
            }),
        }
    }

    /// Inflates `body` to at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// 413 `too_large`; 503 `body_bytes`; 400 `bad_encoding`: another format, truncated, damaged, or
    /// followed by more bytes.
    pub(crate) fn inflate(self, body: Body, limit: usize) -> Result<Body, InferError> {
        let Body { bytes: compressed, mut share } = body;
        let length = self.measure(&compressed, limit)?;
        share.resize(compressed.len() + length)?;
        let mut inflated = Vec::with_capacity(length);
        self.decoder(&mut &compressed[..]).read_to_end(&mut inflated).map_err(bad)?;
        share.resize(inflated.len())?;
        Ok(Body { bytes: inflated.into(), share })
    }

    /// Returns the inflated length: inflates once and discards the output. A compression bomb
    /// therefore never takes memory, at the price of inflating every valid body twice.
    fn measure(self, compressed: &[u8], limit: usize) -> Result<usize, InferError> {
        let mut rest = compressed;
        let mut inflated = self.decoder(&mut rest).take((limit as u64).saturating_add(1));
        let length = io::copy(&mut inflated, &mut io::sink()).map_err(bad)?;
        drop(inflated);
        let length = usize::try_from(length).ok().filter(|length| *length <= limit);
        let length = length.ok_or_else(|| too_large(limit))?;
        if !rest.is_empty() {
            return Err(bad(format!("{} bytes follow the end of the compressed data", rest.len())));
        }
        Ok(length)
    }

    fn decoder<'a>(self, compressed: &'a mut &[u8]) -> Box<dyn Read + 'a> {
        match self {
            Self::Gzip => Box::new(GzDecoder::new(compressed)),
            Self::Deflate => Box::new(ZlibDecoder::new(compressed)),
        }
    }
}

fn bad(what: impl std::fmt::Display) -> InferError {
    Problem::bad("bad_encoding", format!("the body cannot be inflated: {what}")).into()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bytes::Bytes;
    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };
    use prometheus::IntGauge;

    use super::*;
    use crate::memory::MemoryBudget;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(plain: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// Inflates within 1 MiB.
    fn inflate(encoding: Encoding, compressed: &[u8]) -> Result<Bytes, &'static str> {
        inflate_beside(encoding, compressed, 1 << 20)
    }

    /// Inflates within 1 MiB, with a budget of the compressed length plus `room`.
    fn inflate_beside(
        encoding: Encoding,
        compressed: &[u8],
        room: usize,
    ) -> Result<Bytes, &'static str> {
        let most = compressed.len() + room;
        let budget = MemoryBudget::new(most, IntGauge::new("held", "for tests").unwrap());
        let mut share = budget.share();
        share.resize(compressed.len()).unwrap();
        let body = Body { bytes: Bytes::copy_from_slice(compressed), share };
        let inflated = encoding.inflate(body, 1 << 20).map_err(|error| error.code())?;
        assert_eq!(inflated.share.bytes(), inflated.bytes.len());
        Ok(inflated.bytes)
    }

    #[test]
    fn a_compressed_body_is_inflated_whole() {
        for length in [0, 1, 8191, 8192, 8193, 1 << 20] {
            let plain: Vec<u8> = (0..=250).cycle().take(length).collect();
            assert_eq!(inflate(Encoding::Gzip, &gzip(&plain)).unwrap(), plain);
            assert_eq!(inflate(Encoding::Deflate, &zlib(&plain)).unwrap(), plain);
        }
    }

    #[test]
    fn b19_a_bomb_is_stopped_at_the_limit_and_takes_no_memory() {
        let bomb = vec![0; 64 << 20];
        assert_eq!(inflate_beside(Encoding::Gzip, &gzip(&bomb), 0), Err("too_large"));
        assert_eq!(inflate_beside(Encoding::Deflate, &zlib(&bomb), 0), Err("too_large"));
    }

    #[test]
    fn a_body_without_room_is_not_inflated() {
        let plain = gzip(&[7; 1000]);
        assert_eq!(inflate_beside(Encoding::Gzip, &plain, 999), Err("body_bytes"));
        assert_eq!(inflate_beside(Encoding::Gzip, &plain, 1000).unwrap(), vec![7; 1000]);
    }

    #[test]
    fn b20_truncated_damaged_or_trailing_data_is_refused() {
        let plain: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for (encoding, whole) in [(Encoding::Gzip, gzip(&plain)), (Encoding::Deflate, zlib(&plain))]
        {
            let cuts = [0, 1, 2, 9, 10, 11, whole.len() / 2, whole.len() - 1];
            for cut in cuts {
                assert_eq!(inflate(encoding, &whole[..cut]), Err("bad_encoding"), "cut at {cut}");
            }
            for at in [0, 1, whole.len() / 2, whole.len() - 1] {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x55;
                assert_eq!(inflate(encoding, &damaged), Err("bad_encoding"), "damaged at {at}");
            }
            let twice = [&whole[..], &whole[..]].concat();
            assert_eq!(inflate(encoding, &twice), Err("bad_encoding"), "two members");
            assert_eq!(inflate(encoding, &[&whole[..], b"\0"].concat()), Err("bad_encoding"));
            assert_eq!(inflate(encoding, &plain), Err("bad_encoding"), "plain");
        }
        assert_eq!(inflate(Encoding::Gzip, &zlib(&plain)), Err("bad_encoding"));
        assert_eq!(inflate(Encoding::Deflate, &gzip(&plain)), Err("bad_encoding"));
    }

    #[test]
    fn b21_only_one_known_encoding_is_accepted() {
        let parse = |values: &[&'static str]| {
            Encoding::parse(values.iter().map(|value| value.as_bytes())).map_err(|e| e.status)
        };
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&["identity"]), Ok(None));
        assert_eq!(parse(&["GZip"]), Ok(Some(Encoding::Gzip)));
        assert_eq!(parse(&["deflate"]), Ok(Some(Encoding::Deflate)));
        for wrong in ["", "zstd", "br", "foo", "gzip, gzip", "gzip,", "identity, gzip"] {
            assert_eq!(parse(&[wrong]), Err(415), "{wrong}");
        }
        assert_eq!(parse(&["gzip", "gzip"]), Err(415));
    }
}
