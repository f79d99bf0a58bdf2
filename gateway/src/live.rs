//! The live page: a few static files, and the feed that the page polls four times per second.
//!
//! While no page is open, the gateway records nothing for the page. On the admin port, the page
//! only shows data. On the port for clients, the page can also send requests like any client. With
//! `batchfleet serve`, browsers on the same machine can also set the live controls.

mod controls;
mod feed;
mod files;
mod local;
mod response;
mod set_controls;
pub(crate) mod state;

use actix_web::{HttpRequest, HttpResponse, http::Method};

pub use self::controls::LiveControls;
use self::state::Port;
use crate::api::Api;

/// Responds to a request for the page that arrived on `port`; `None` if the port does not serve the
/// page or the path is not part of the page. Never waits.
pub(crate) fn answer(api: &Api, port: Port, request: &HttpRequest) -> Option<HttpResponse> {
    if !api.live.is_at(port) {
        return None;
    }
    let answered = match (request.path(), request.method()) {
        ("/page/feed", &Method::GET | &Method::HEAD) => feed::answer(api, port, request),
        ("/page/play", &Method::POST) if port == Port::Clients => {
            set_controls::answer(api, request)
        }
        (path, &Method::GET | &Method::HEAD) => return files::file(path, request),
        _ => return None,
    };
    Some(answered.unwrap_or_else(HttpResponse::from_error))
}
