//! The files of the live page, compiled into the program.

use actix_web::{HttpRequest, HttpResponse, http::header};

/// Content security policy: the page may load from and connect to its own server only.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Path, content type and content.
const FILES: [(&str, &str, &str); 8] = [
    ("/", "text/html; charset=utf-8", include_str!("../../page/live.html")),
    ("/page/live.css", "text/css; charset=utf-8", include_str!("../../page/live.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("../../page/icon.svg")),
    ("/page/live.js", JAVASCRIPT, include_str!("../../page/live.js")),
    ("/page/feed.js", JAVASCRIPT, include_str!("../../page/feed.js")),
    ("/page/batches.js", JAVASCRIPT, include_str!("../../page/batches.js")),
    ("/page/charts.js", JAVASCRIPT, include_str!("../../page/charts.js")),
    ("/page/digit.js", JAVASCRIPT, include_str!("../../page/digit.js")),
];
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The file at `path`. The page at `/` exists only for browsers, which accept HTML, and not for
/// clients of the protocol.
pub(super) fn file(path: &str, request: &HttpRequest) -> Option<HttpResponse> {
    let (_, kind, content) = FILES.iter().find(|(name, ..)| *name == path)?;
    let accepts = request.headers().get(header::ACCEPT).and_then(|types| types.to_str().ok());
    if path == "/" && !accepts.is_some_and(|types| types.contains("text/html")) {
        return None;
    }
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .content_type(*kind);
    Some(response.body(*content))
}
