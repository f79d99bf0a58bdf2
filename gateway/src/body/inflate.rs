//! Compressed bodies, inflated within the same bounds as any other.

use std::io::Read;

use flate2::bufread::{GzDecoder, ZlibDecoder};

use super::{Body, Share, too_large};
use crate::{error::InferError, oip::Problem};

/// Deflate makes at most so many bytes of one.
const MOST_FOR_ONE: usize = 1032;
/// How much is inflated before the bounds are looked at again.
const STEP: usize = 64 << 10;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// RFC 1952, one member.
    Gzip,
    /// RFC 1950: "deflate" is what zlib writes.
    Deflate,
}

impl Encoding {
    /// Reads the values of `Content-Encoding`; `None` for a body that comes as it is.
    ///
    /// # Errors
    ///
    /// 415: another encoding, or several.
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
    /// 413 `too_large`; 503 `body_bytes`; 400 `bad_encoding`: compressed in another way, cut short,
    /// damaged, or with more behind its end.
    pub(crate) fn inflate(self, body: Body, limit: usize) -> Result<Body, InferError> {
        let Body { bytes: compressed, mut share } = body;
        let mut rest = &compressed[..];
        let inflated = match self {
            Self::Gzip => read_all(GzDecoder::new(&mut rest), limit, &mut share),
            Self::Deflate => read_all(ZlibDecoder::new(&mut rest), limit, &mut share),
        }?;
        if !rest.is_empty() {
            return Err(bad(format!("{} bytes follow the end of the compressed data", rest.len())));
        }
        share.resize(inflated.len())?;
        Ok(Body { bytes: inflated.into(), share })
    }
}

/// Inflates to the end, with the share growing ahead of what is inflated.
fn read_all(
    mut decoder: impl Read,
    limit: usize,
    share: &mut Share,
) -> Result<Vec<u8>, InferError> {
    let compressed = share.bytes;
    // Room for all it can become: what is not written to takes no memory, and nothing is moved.
    let most = compressed.saturating_mul(MOST_FOR_ONE).min(limit);
    let mut inflated = Vec::with_capacity(most + STEP);
    loop {
        share.resize(compressed + inflated.len() + STEP)?;
        let mut step = decoder.by_ref().take(STEP as u64);
        let read = step.read_to_end(&mut inflated).map_err(|error| bad(error.to_string()))?;
        if inflated.len() > limit {
            return Err(too_large(limit).into());
        }
        if read < STEP {
            return Ok(inflated);
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
    use crate::body::Budget;

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

    /// Inflates within 1 MiB, in a process that may hold 2 MiB.
    fn inflate(encoding: Encoding, compressed: &[u8]) -> Result<Bytes, &'static str> {
        let budget = Budget::new(2 << 20, IntGauge::new("held", "for tests").unwrap());
        let mut share = budget.share();
        share.resize(compressed.len()).unwrap();
        let body = Body { bytes: Bytes::copy_from_slice(compressed), share };
        let inflated = encoding.inflate(body, 1 << 20).map_err(|error| error.code())?;
        assert_eq!(inflated.share.bytes, inflated.bytes.len());
        Ok(inflated.bytes)
    }

    #[test]
    fn what_was_compressed_comes_out_whole() {
        for length in [0, 1, STEP - 1, STEP, STEP + 1, 1 << 20] {
            let plain: Vec<u8> = (0..=250).cycle().take(length).collect();
            assert_eq!(inflate(Encoding::Gzip, &gzip(&plain)).unwrap(), plain);
            assert_eq!(inflate(Encoding::Deflate, &zlib(&plain)).unwrap(), plain);
        }
    }

    #[test]
    fn b19_a_bomb_is_stopped_at_the_limit() {
        let bomb = vec![0; 64 << 20];
        assert_eq!(inflate(Encoding::Gzip, &gzip(&bomb)), Err("too_large"));
        assert_eq!(inflate(Encoding::Deflate, &zlib(&bomb)), Err("too_large"));
    }

    #[test]
    fn b20_data_that_is_cut_damaged_or_followed_by_more_is_refused() {
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
    fn b21_one_known_encoding_is_taken_and_nothing_else() {
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
