//! The trace of a request, as in [W3C Trace Context](https://www.w3.org/TR/trace-context/).

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
};

/// A span of a recorded trace. The spans recorded for the request are its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace id.
    pub trace: NonZeroU128,
    /// The span id.
    pub span: NonZeroU64,
}

impl TraceContext {
    /// Creates a context. Returns `None` if an id is 0, which is invalid for traces and spans.
    pub fn new(trace: u128, span: u64) -> Option<Self> {
        Some(Self { trace: NonZeroU128::new(trace)?, span: NonZeroU64::new(span)? })
    }
}

/// The `traceparent` header of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The caller's own span.
    pub context: TraceContext,
    /// Whether the caller records the trace.
    pub sampled: bool,
}

impl TraceParent {
    /// Parses a `traceparent` header. Returns `None` for an invalid header, which the
    /// recommendation treats as absent. In later versions, only the fields of version 0 are read.
    pub fn parse(value: &str) -> Option<Self> {
        let mut fields = value.split('-');
        let version: u8 = hexadecimal(fields.next()?, 2)?.try_into().ok()?;
        let trace = hexadecimal(fields.next()?, 32)?;
        let span = hexadecimal(fields.next()?, 16)?.try_into().ok()?;
        let flags = hexadecimal(fields.next()?, 2)?;
        let too_much = version == 0 && fields.next().is_some();
        if version == 0xff || too_much {
            return None;
        }
        Some(Self { context: TraceContext::new(trace, span)?, sampled: flags & 1 == 1 })
    }
}

/// The trace id, in the format of logs and trace viewers.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.trace)
    }
}

/// Parses exactly `digits` lower-case hexadecimal digits.
fn hexadecimal(field: &str, digits: usize) -> Option<u128> {
    let fits = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_exact = field.len() == digits && field.bytes().all(fits);
    is_exact.then(|| u128::from_str_radix(field, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_header_has_the_span_of_the_caller_and_whether_it_is_sampled() {
        for (flags, sampled) in [("01", true), ("00", false), ("03", true), ("fe", false)] {
            let parent = TraceParent::parse(&format!("00-{TRACE}-b7ad6b7169203331-{flags}"));
            let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
            let context = TraceContext::new(trace, 0xb7ad_6b71_6920_3331).unwrap();
            assert_eq!(parent, Some(TraceParent { context, sampled }), "{flags}");
            assert_eq!(context.to_string(), TRACE);
        }
    }

    #[test]
    fn a_later_version_may_have_more_fields() {
        let more = TraceParent::parse(&format!("01-{TRACE}-b7ad6b7169203331-01-what-ever"));
        assert!(more.is_some_and(|parent| parent.sampled));
    }

    #[test]
    fn an_invalid_header_counts_as_none() {
        let nothing = "0".repeat(32);
        for wrong in [
            String::new(),
            "00".to_owned(),
            "x".repeat(64 << 10),
            format!("00-{TRACE}-b7ad6b7169203331"),
            format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            format!("ff-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
            format!("00-{nothing}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-b7ad6b716920333-01"),
            format!("00-{TRACE}-+7ad6b7169203331-01"),
            format!("0-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331-1"),
        ] {
            assert_eq!(TraceParent::parse(&wrong), None, "{wrong:.80}");
        }
    }
}
