//! Parses the head of a request as far as its end and the length of its body depend on it. Pure.
//!
//! Uses the parser and the rules of actix, which parses the same head afterwards, so that both find
//! the same boundaries.

use std::ops::Range;

use actix_web::http::Uri;
use batchfleet_oip::Problem;

/// Maximum size of a request head in bytes; actix refuses larger ones as well.
pub(super) const LARGEST_HEAD: usize = 128 << 10;
/// Maximum number of headers, the same as that of actix.
const MOST_HEADERS: usize = 96;
/// Maximum length of a header's name in bytes. actix panics at names of 64 KiB and more.
const LONGEST_NAME: usize = 8 << 10;

/// Maximum length of a request target in bytes; the library of actix takes no longer ones.
const LONGEST_TARGET: usize = 65_534;
/// The size of a body in bytes, beyond which the handlers read it from the connection.
pub(super) const LARGE_BODY: u64 = 64 << 10;
/// The start of a TLS handshake.
const TLS: &[u8] = &[22, 3];

/// How the end of a request body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFraming {
    /// The body has this many bytes; 0 if there is none.
    Length(u64),
    /// The body is sent in chunks.
    Chunked,
}

/// The complete head of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The size of the head in bytes.
    pub(super) length: usize,
    pub(super) body: BodyFraming,
    /// Names and options of headers that the server must not know.
    hidden: Vec<Range<usize>>,
}

/// Parses the head at the start of `bytes`; `None` while the head is incomplete.
///
/// # Errors
///
/// The bytes are no request of HTTP/1.1 or HTTP/1.0, or the end of the request is ambiguous.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Head>, Problem> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= LARGEST_HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() < LARGEST_HEAD => return Ok(None),
        Ok(_) => return Err(too_large(&format!("more than {LARGEST_HEAD} bytes"))),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(too_large(&format!("more than {MOST_HEADERS} headers")));
        }
        Err(_) if bytes.starts_with(TLS) => {
            return Err(malformed("TLS was sent to a port of HTTP"));
        }
        Err(error) => return Err(malformed(&format!("the request head is malformed: {error}"))),
    };
    check_target(request.path.unwrap_or_default())?;
    let is_http_11 = request.version == Some(1);
    let mut rules = Rules::default();
    for header in request.headers.iter() {
        rules.read(header, is_http_11)?;
    }
    let position = |part: &[u8]| {
        let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
        start..start + part.len()
    };
    Ok(Some(Head {
        length,
        body: rules.framing(request.method.unwrap_or_default(), is_http_11)?,
        hidden: rules.hidden.iter().map(|part| position(part)).collect(),
    }))
}

/// Whether an empty line, which ends a head, is in `bytes` and ends after `from`.
pub(super) fn has_empty_line(bytes: &[u8], from: usize) -> bool {
    let new = &bytes[from.saturating_sub(3)..];
    new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
}

impl Head {
    /// Whether the handlers read the body from the connection.
    pub(super) fn has_large_body(&self) -> bool {
        matches!(self.body, BodyFraming::Length(length) if length > LARGE_BODY)
    }

    /// Renames what actix must not know: the length of a body that the handlers read from the connection, and
    /// what asks to switch to another protocol, which the gateway never does. For such a request actix would
    /// ignore the length of the body.
    pub(super) fn hide_from_server(&self, bytes: &mut [u8]) {
        for range in &self.hidden {
            bytes[range.clone()].fill(b'x');
        }
    }
}

/// The headers that decide where a request ends.
#[derive(Default)]
struct Rules<'a> {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    hidden: Vec<&'a [u8]>,
}

impl<'a> Rules<'a> {
    fn read(&mut self, header: &httparse::Header<'a>, is_http_11: bool) -> Result<(), Problem> {
        const UPGRADE: &str = "upgrade";
        let name = header.name;
        if name.len() > LONGEST_NAME {
            return Err(too_large(&format!("a header name of more than {LONGEST_NAME} bytes")));
        }
        if name.eq_ignore_ascii_case("host") {
            self.hosts += 1;
        } else if name.eq_ignore_ascii_case("content-length") {
            if self.length.is_some() {
                return Err(malformed("there is more than one content-length"));
            }
            let length = content_length(header.value)?;
            self.length = Some(length);
            if length > LARGE_BODY {
                self.hidden.push(name.as_bytes());
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            let is_chunked = header.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            if self.chunked || !is_chunked || !is_http_11 {
                return Err(malformed("transfer-encoding must be chunked, once, in HTTP/1.1"));
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(UPGRADE) {
            self.hidden.push(name.as_bytes());
        } else if name.eq_ignore_ascii_case("connection") {
            let options = header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            let upgrades = |option: &&[u8]| option.eq_ignore_ascii_case(UPGRADE.as_bytes());
            self.hidden.extend(options.filter(upgrades));
        }
        Ok(())
    }

    fn framing(&self, method: &str, is_http_11: bool) -> Result<BodyFraming, Problem> {
        if self.hosts > 1 || is_http_11 && self.hosts == 0 {
            return Err(malformed("a request has exactly one host header"));
        }
        if method == "CONNECT" {
            let message = "the gateway is no proxy".to_owned();
            return Err(Problem { status: 405, code: "method_not_allowed", message });
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(malformed("both content-length and transfer-encoding are set")),
            (true, None) => Ok(BodyFraming::Chunked),
            (false, None) if !is_http_11 && method == "POST" => {
                Err(malformed("a POST of HTTP/1.0 needs a content-length"))
            }
            (false, length) => Ok(BodyFraming::Length(length.unwrap_or(0))),
        }
    }
}

/// Checks the target as actix does.
fn check_target(target: &str) -> Result<(), Problem> {
    if target.len() > LONGEST_TARGET {
        let message = format!("the request target has more than {LONGEST_TARGET} bytes");
        return Err(Problem { status: 414, code: "head_too_large", message });
    }
    match target.parse::<Uri>() {
        Ok(_) => Ok(()),
        Err(error) => Err(malformed(&format!("the request target is malformed: {error}"))),
    }
}

fn content_length(value: &[u8]) -> Result<u64, Problem> {
    let digits = value.trim_ascii();
    let text = str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed("content-length is not a number of bytes"))
}

fn malformed(message: &str) -> Problem {
    Problem::bad("bad_http", message.to_owned())
}

fn too_large(what: &str) -> Problem {
    let message = format!("the request head is too large: {what}");
    Problem { status: 431, code: "head_too_large", message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(line: &str, headers: &[&str]) -> Vec<u8> {
        let mut lines = vec![line, "host: x"];
        lines.extend(headers);
        (lines.join("\r\n") + "\r\n\r\n").into_bytes()
    }

    fn body(headers: &[&str]) -> Result<BodyFraming, u16> {
        let head = parse(&head("POST / HTTP/1.1", headers)).map_err(|problem| problem.status)?;
        Ok(head.unwrap().body)
    }

    #[test]
    fn a_head_is_complete_at_its_empty_line() {
        let request = head("GET / HTTP/1.1", &[]);
        let with_next = [&request[..], b"GET"].concat();
        assert_eq!(parse(&with_next).unwrap().unwrap().length, request.len());
        for length in 0..request.len() {
            assert_eq!(parse(&request[..length]), Ok(None), "{length}");
        }
    }

    #[test]
    fn the_length_of_a_body_is_never_ambiguous() {
        assert_eq!(body(&[]), Ok(BodyFraming::Length(0)));
        assert_eq!(body(&["Content-Length: 12"]), Ok(BodyFraming::Length(12)));
        assert_eq!(body(&["transfer-encoding: Chunked"]), Ok(BodyFraming::Chunked));
        for refused in [
            &["content-length: 1", "content-length: 1"][..],
            &["content-length: +1"],
            &["content-length: 1, 1"],
            &["content-length:"],
            &["content-length: 18446744073709551616"],
            &["transfer-encoding: chunked", "content-length: 0"],
            &["transfer-encoding: chunked", "transfer-encoding: chunked"],
            &["transfer-encoding: gzip, chunked"],
            &["transfer-encoding: identity"],
            &["host: y"],
        ] {
            assert_eq!(body(refused), Err(400), "{refused:?}");
        }
        assert!(parse(b"GET / HTTP/1.1\r\n\r\n").is_err(), "no host");
        assert!(parse(b"GET / HTTP/1.0\r\n\r\n").is_ok());
        assert!(parse(b"POST / HTTP/1.0\r\n\r\n").is_err(), "no length");
        assert!(parse(b"GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert_eq!(parse(&head("CONNECT x:1 HTTP/1.1", &[])).unwrap_err().status, 405);
    }

    #[test]
    fn a_head_beyond_the_limits_is_refused_before_its_end() {
        let long = |bytes: usize| "a: ".to_owned() + &"b".repeat(bytes);
        assert!(body(&[&long(100 << 10)]).is_ok());
        assert_eq!(body(&[&long(LARGEST_HEAD)]), Err(431));
        let unfinished = &head("GET / HTTP/1.1", &[&long(2 * LARGEST_HEAD)])[..LARGEST_HEAD];
        assert_eq!(parse(unfinished).unwrap_err().status, 431);
        assert_eq!(body(&vec!["a: b"; MOST_HEADERS]), Err(431));
        assert!(body(&vec!["a: b"; MOST_HEADERS - 1]).is_ok());
        let target = |bytes: usize| format!("GET /{} HTTP/1.1", "a".repeat(bytes));
        assert!(parse(&head(&target(LONGEST_TARGET - 1), &[])).is_ok());
        assert_eq!(parse(&head(&target(LONGEST_TARGET), &[])).unwrap_err().status, 414);
        assert_eq!(body(&[&("a".repeat(LONGEST_NAME + 1) + ": b")]), Err(431));
    }

    #[test]
    fn other_protocols_are_refused_with_their_first_bytes() {
        for bytes in [&b"\x16\x03\x01\x02\x00\x01"[..], b"SSH-2.0-x\r\n", b"PRI * HTTP/2.0\r\n\r\n"]
        {
            assert_eq!(parse(bytes).unwrap_err().code, "bad_http", "{bytes:?}");
        }
    }

    #[test]
    fn a_request_that_offers_another_protocol_keeps_its_body() {
        let mut request = head(
            "POST / HTTP/1.1",
            &["Upgrade: websocket", "Connection: keep-alive, Upgrade", "content-length: 3"],
        );
        let parsed = parse(&request).unwrap().unwrap();
        assert_eq!(parsed.body, BodyFraming::Length(3));
        parsed.hide_from_server(&mut request);
        let text = String::from_utf8(request).unwrap();
        assert!(text.contains("xxxxxxx: websocket"), "{text}");
        assert!(text.contains("Connection: keep-alive, xxxxxxx"), "{text}");
    }
}
