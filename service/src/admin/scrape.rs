//! Answers requests for metrics in the format and the encoding that the client asks for.

use std::io::{self, Write};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{
        Accept, AcceptEncoding, ContentEncoding, Encoding, Header, Quality, QualityItem,
    },
};
use flate2::{Compression, write::GzEncoder};
use prometheus::{Encoder, Registry, TEXT_FORMAT, TextEncoder};

use super::problem;
use crate::metrics::openmetrics;

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Prometheus' text format.
    Text,
    /// OpenMetrics 1.0.0, which has exemplars.
    OpenMetrics,
}

/// Answers with all metrics of `registry`.
pub(super) fn answer(request: &HttpRequest, registry: &Registry) -> HttpResponse {
    let zipped = accepts_gzip(request);
    let written = write(registry, format_for(request))
        .and_then(|(format, text)| Ok((format, if zipped { zip(&text)? } else { text })));
    match written {
        Ok((format, body)) => {
            let mut answer = HttpResponse::Ok();
            answer.content_type(format);
            if zipped {
                answer.insert_header(ContentEncoding::Gzip);
            }
            answer.body(body)
        }
        Err(error) => problem(HttpResponse::InternalServerError(), "internal", &error.to_string()),
    }
}

/// The metrics in a format, with its media type.
fn write(registry: &Registry, format: Format) -> io::Result<(&'static str, Vec<u8>)> {
    let families = registry.gather();
    match format {
        Format::OpenMetrics => {
            Ok((openmetrics::OPENMETRICS, openmetrics::encode(&families).into_bytes()))
        }
        Format::Text => {
            let mut text = Vec::new();
            TextEncoder::new().encode(&families, &mut text).map_err(io::Error::other)?;
            Ok((TEXT_FORMAT, text))
        }
    }
}

/// The format that the client prefers. A client that prefers neither gets Prometheus' text format.
fn format_for(request: &HttpRequest) -> Format {
    let Ok(Accept(ranges)) = Accept::parse(request) else { return Format::Text };
    let mut best = (Quality::ZERO, Format::Text);
    for QualityItem { item: range, quality } in ranges {
        let version = range.get_param("version").map(|version| version.as_str());
        let format = match (range.type_().as_str(), range.subtype().as_str(), version) {
            ("application", "openmetrics-text", None | Some("1.0.0")) => Format::OpenMetrics,
            ("text", "plain" | "*", _) | ("*", "*", _) => Format::Text,
            _ => continue,
        };
        // Of equal preferences, the first counts.
        if quality > best.0 {
            best = (quality, format);
        }
    }
    best.1
}

/// Whether the client asks for gzip. A client without the header gets the text as it is.
fn accepts_gzip(request: &HttpRequest) -> bool {
    let Ok(accepted) = AcceptEncoding::parse(request) else { return false };
    let supported = [Encoding::identity(), Encoding::gzip()];
    !accepted.is_empty() && accepted.negotiate(supported.iter()) == Some(Encoding::gzip())
}

fn zip(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use actix_web::{
        body::MessageBody,
        http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue},
        test::TestRequest,
    };
    use flate2::read::GzDecoder;
    use prometheus::IntCounter;

    use super::*;

    /// What Prometheus 3 sends.
    const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
        application/openmetrics-text;version=0.0.1;q=0.4,\
        text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";

    fn request(accept: &str, encoding: &str) -> HttpRequest {
        let mut request = TestRequest::default();
        for (name, value) in [(ACCEPT, accept), (ACCEPT_ENCODING, encoding)] {
            if !value.is_empty() {
                request = request.insert_header((name, value));
            }
        }
        request.to_http_request()
    }

    #[test]
    fn openmetrics_is_for_clients_that_prefer_it() {
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("application/json", Format::Text),
            ("text/plain; version=0.0.4", Format::Text),
            ("application/openmetrics-text; version=2.0.0", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=0.1, text/*;q=0.2", Format::Text),
            ("text/plain, application/openmetrics-text", Format::Text),
            ("application/openmetrics-text, text/plain", Format::OpenMetrics),
            ("application/openmetrics-text; version=1.0.0", Format::OpenMetrics),
            (PROMETHEUS, Format::OpenMetrics),
        ] {
            assert_eq!(format_for(&request(accept, "")), format, "{accept}");
        }
    }

    #[test]
    fn gzip_is_for_clients_that_ask_for_it() {
        for (encoding, zipped) in [
            ("", false),
            ("identity", false),
            ("br", false),
            ("gzip;q=0", false),
            ("identity, gzip;q=0.5", false),
            ("gzip", true),
            ("gzip, deflate, br", true),
            ("identity;q=0.5, gzip;q=1.0", true),
        ] {
            assert_eq!(accepts_gzip(&request("", encoding)), zipped, "{encoding}");
        }
    }

    #[test]
    fn an_answer_names_its_format_and_its_encoding() {
        let registry = Registry::new();
        let counter = IntCounter::new("test_replies_total", "Replies").unwrap();
        registry.register(Box::new(counter)).unwrap();
        let text = "# HELP test_replies_total Replies\n# TYPE test_replies_total counter\n\
                    test_replies_total 0\n";
        let open = "# TYPE test_replies counter\n# HELP test_replies Replies\n\
                    test_replies_total 0\n# EOF\n";
        for (accept, media_type, body) in
            [("", "text/plain; version=0.0.4", text), (PROMETHEUS, openmetrics::OPENMETRICS, open)]
        {
            for encoding in ["", "gzip"] {
                let answer = answer(&request(accept, encoding), &registry);
                let header = |name| answer.headers().get(name).map(HeaderValue::as_bytes);
                assert_eq!(header(CONTENT_TYPE), Some(media_type.as_bytes()));
                assert_eq!(header(CONTENT_ENCODING).unwrap_or_default(), encoding.as_bytes());
                let bytes = answer.into_body().try_into_bytes().unwrap();
                let mut read = String::new();
                if encoding == "gzip" {
                    GzDecoder::new(bytes.as_ref()).read_to_string(&mut read).unwrap();
                } else {
                    bytes.as_ref().read_to_string(&mut read).unwrap();
                }
                assert_eq!(read, body);
            }
        }
    }
}
