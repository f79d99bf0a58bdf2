//! The live page: a few files that stand in this program, and the feed that moves them.
//!
//! The page asks for news four times a second; while no page does, nothing is kept for one. On the
//! admin port it only watches. On the clients' port, which it shares an origin with, it also sends
//! requests as any client may; and where the server offers that (`batchfleet serve`, to browsers on
//! the same machine), it sets a load and another latency target, for as long as it stays open.

mod feed;
mod play;
pub(crate) mod watch;

use std::{sync::OnceLock, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, ContentType},
    },
};
use batchfleet_broker::GatewayId;
use tokio::sync::watch::Receiver;

use self::play::Desk;
pub use self::play::Play;
use crate::{
    clients::Client,
    error::{InferError, say},
    http::Api,
    settings::LivePage,
};

/// The page draws, shows and asks only what comes from where it came from itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Path, content type and content.
const FILES: [(&str, &str, &str); 8] = [
    ("/", "text/html; charset=utf-8", include_str!("../page/live.html")),
    ("/page/live.css", "text/css; charset=utf-8", include_str!("../page/live.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("../page/icon.svg")),
    ("/page/live.js", JAVASCRIPT, include_str!("../page/live.js")),
    ("/page/feed.js", JAVASCRIPT, include_str!("../page/feed.js")),
    ("/page/batches.js", JAVASCRIPT, include_str!("../page/batches.js")),
    ("/page/charts.js", JAVASCRIPT, include_str!("../page/charts.js")),
    ("/page/digit.js", JAVASCRIPT, include_str!("../page/digit.js")),
];
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Which port a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// Where operators look.
    Admin,
    /// Where clients ask.
    Clients,
}

/// What the page needs of a gateway.
#[derive(Debug)]
pub(crate) struct Live {
    place: LivePage,
    /// Tells pages that a gateway has started anew.
    boot: GatewayId,
    desk: Desk,
    /// The clients' port, once it is open.
    port: OnceLock<u16>,
}

impl Live {
    /// A page there.
    pub(crate) fn new(place: LivePage, boot: GatewayId) -> Self {
        Self { place, boot, desk: Desk::default(), port: OnceLock::new() }
    }

    /// What is tried out on the page, as it changes.
    pub(crate) fn plays(&self) -> Receiver<Play> {
        self.desk.plays()
    }

    /// The clients' port is open.
    pub(crate) fn opened(&self, port: u16) {
        self.port.get_or_init(|| port);
    }

    /// The clients' port, if there is a page.
    fn clients_port(&self) -> Option<u16> {
        self.port.get().copied().filter(|_| self.is_at(Door::Clients))
    }

    /// Ends what was tried out on a page that is gone.
    pub(crate) fn tick(&self) {
        self.desk.tick();
    }

    fn is_at(&self, door: Door) -> bool {
        match self.place {
            LivePage::Off => false,
            LivePage::Admin => door == Door::Admin,
            LivePage::Everywhere => true,
        }
    }
}

/// The page's answer to a request, if the page is there and the path is its own. Waits for nothing.
pub(crate) fn answer(api: &Api, door: Door, request: &HttpRequest) -> Option<HttpResponse> {
    if !api.live.is_at(door) {
        return None;
    }
    let answered = match (request.path(), request.method()) {
        ("/page/feed", &Method::GET) => feed::answer(api, door, request),
        ("/page/play", &Method::POST) if door == Door::Clients => play::answer(api, request),
        (path, &Method::GET) => return file(path, request),
        _ => return None,
    };
    Some(answered.unwrap_or_else(HttpResponse::from_error))
}

/// Who asks: anybody on the admin port, whose metrics name every model as well.
fn client(api: &Api, door: Door, request: &HttpRequest) -> Result<Option<Client>, InferError> {
    match door {
        Door::Admin => Ok(None),
        Door::Clients => api.clients.identify(request.head()).map(Some),
    }
}

/// A file of the page. `/` is one for browsers only: to a client of the protocol it is no path.
fn file(path: &str, request: &HttpRequest) -> Option<HttpResponse> {
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

/// JSON that is true at this moment only.
fn fresh(body: impl serde::Serialize) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::json())
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(body)
}

/// A refusal of the page's own.
fn refuse(status: StatusCode, code: &'static str, text: &str) -> HttpResponse {
    say(HttpResponse::build(status), code, text)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
