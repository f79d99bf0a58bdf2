//! Cross-origin requests: tells browsers that pages of other origins may send requests.

use actix_web::{
    HttpRequest, HttpResponse,
    dev::RequestHead,
    http::{
        Method,
        header::{self, HeaderMap, HeaderValue},
    },
};

/// The response headers, beyond the usual ones, that a page may read.
const READABLE: &str = "inference-header-content-length, retry-after, x-batch, x-error-code";
/// How long a browser may remember the answer to a preflight request, in seconds.
const REMEMBERED: u32 = 600;

/// The origins whose pages may send requests: `*` for any.
#[derive(Clone, Debug, Default)]
pub(super) struct AllowedOrigins(Vec<String>);

impl AllowedOrigins {
    pub(super) fn new(origins: &[String]) -> Self {
        Self(origins.to_vec())
    }

    /// Whether answers depend on the origin of the page, so that caches must keep them apart.
    pub(super) fn matter(&self) -> bool {
        !self.0.is_empty()
    }

    /// The value of `access-control-allow-origin` in the answer to this request; `None` if the
    /// request comes from no page, from a page that may not send requests, or is none of the
    /// protocol: the live page has only its own origin.
    pub(super) fn allowed(&self, request: &RequestHead) -> Option<HeaderValue> {
        let origin = request.headers().get(header::ORIGIN)?;
        let path = request.uri.path();
        if !path.starts_with("/v2") && !path.starts_with("/v1/") {
            return None;
        }
        let is_allowed = |allowed: &String| {
            allowed == "*" || origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes())
        };
        self.0.iter().any(is_allowed).then(|| origin.clone())
    }
}

/// Whether a request comes from a page of an origin whose pages may send no requests.
pub(super) fn is_foreign(request: &HttpRequest) -> bool {
    let origins = request.app_data::<AllowedOrigins>();
    let is_allowed = origins.is_some_and(|origins| origins.allowed(request.head()).is_some());
    request.headers().contains_key(header::ORIGIN) && !is_allowed
}

/// Adds to an answer that the page of `origin` may read it.
pub(super) fn allow(origin: HeaderValue, answer: &mut HeaderMap) {
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READABLE));
}

/// The answer to a preflight request, with which a browser asks whether a page may send a request
/// with these headers; `None` for any other request.
pub(super) fn preflight(request: &RequestHead) -> Option<HttpResponse> {
    if request.method != Method::OPTIONS {
        return None;
    }
    request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let mut answer = HttpResponse::NoContent();
    answer.insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST"));
    if let Some(wanted) = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone()));
    }
    answer.insert_header((header::ACCESS_CONTROL_MAX_AGE, REMEMBERED));
    Some(answer.finish())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn from(origin: &str) -> RequestHead {
        let request = TestRequest::with_uri("/v2/models/m/infer");
        let request = request.insert_header((header::ORIGIN, origin)).to_http_request();
        let (uri, headers) = (request.uri().clone(), request.headers().clone());
        let mut head = RequestHead::default();
        (head.uri, head.headers) = (uri, headers);
        head
    }

    #[test]
    fn only_listed_origins_are_allowed() {
        let origins =
            |list: &[&str]| AllowedOrigins(list.iter().map(ToString::to_string).collect());
        let page = from("https://page.example");
        assert_eq!(origins(&[]).allowed(&page), None);
        assert_eq!(origins(&["https://other.example"]).allowed(&page), None);
        for list in [&["*"][..], &["https://other.example", "https://page.example"]] {
            assert_eq!(origins(list).allowed(&page).unwrap(), "https://page.example");
        }
        assert_eq!(origins(&["*"]).allowed(&RequestHead::default()), None);
        let mut of_live_page = page;
        of_live_page.uri = "/page/play".parse().unwrap();
        assert_eq!(origins(&["*"]).allowed(&of_live_page), None);
    }

    #[test]
    fn a_preflight_request_names_the_method_it_asks_for() {
        let mut request = from("https://page.example");
        request.method = Method::OPTIONS;
        assert!(preflight(&request).is_none());
        request
            .headers
            .insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        let wanted = HeaderValue::from_static("content-type,x-api-key");
        request.headers.insert(header::ACCESS_CONTROL_REQUEST_HEADERS, wanted.clone());
        let answer = preflight(&request).unwrap();
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.headers().get(header::ACCESS_CONTROL_ALLOW_HEADERS), Some(&wanted));
        request.method = Method::POST;
        assert!(preflight(&request).is_none());
    }
}
