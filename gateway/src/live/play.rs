//! What people try out on the live page of `batchfleet serve`: callers that load it, and another
//! latency target. Both end when the page is gone.
//!
//! A browser opens six connections to a server at most, too few to fill a batch; so the page asks the
//! server for callers. That is offered to browsers on the server's own machine only, and a page of
//! another site cannot ask for it in their name: the header makes browsers ask us first, whom nobody
//! answers, and the host must be this machine's own name, not one that was made to point at it.

use std::{net::IpAddr, sync::Mutex, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::Query,
};
use batchfleet_broker::QueueName;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch::{Receiver, Sender, channel},
    time::Instant,
};

use super::{Door, milliseconds, refuse};
use batchfleet_oip::Problem;

use crate::{error::InferError, http::Api};

/// The most callers a page may ask for.
const MOST_CALLERS: usize = 256;
/// Latency targets that a page may ask for, in milliseconds.
const TARGETS: std::ops::RangeInclusive<f64> = 1.0..=1000.0;
/// A page says again what it wants long before that.
const FORGOTTEN: Duration = Duration::from_secs(6);
/// No page of another site may send it.
const OURS: &str = "x-live-page";

/// What somebody at the live page wants of the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Play {
    /// Of which model; of none, nothing.
    pub queue: Option<QueueName>,
    /// How many callers ask for it all the time, each when it has been answered.
    pub callers: usize,
    /// The latency target from which N shall follow; `None` for the worker's own.
    pub slo: Option<Duration>,
}

/// What a page may ask for, and what is.
#[derive(Debug, Serialize)]
pub(super) struct Offer {
    most_callers: usize,
    callers: usize,
    slo_ms: Option<f64>,
}

/// Where wishes lie.
#[derive(Debug)]
pub(super) struct Desk {
    wish: Sender<Play>,
    /// When a page last said what it wants.
    said: Mutex<Option<Instant>>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { wish: channel(Play::default()).0, said: Mutex::default() }
    }
}

impl Desk {
    pub(super) fn plays(&self) -> Receiver<Play> {
        self.wish.subscribe()
    }

    /// What is offered to whoever sent this.
    pub(super) fn offer(&self, door: Door, request: &HttpRequest) -> Option<Offer> {
        if door == Door::Admin || self.wish.is_closed() || !is_local(request) {
            return None;
        }
        let Play { callers, slo, .. } = *self.wish.borrow();
        Some(Offer { most_callers: MOST_CALLERS, callers, slo_ms: slo.map(milliseconds) })
    }

    fn wish(&self, play: Play) {
        if let Ok(mut said) = self.said.lock() {
            *said = Some(Instant::now());
        }
        self.wish.send_if_modified(|wish| {
            let is_new = *wish != play;
            *wish = play;
            is_new
        });
    }

    /// Forgets a wish whose page is gone.
    pub(super) fn tick(&self) {
        if let Ok(mut said) = self.said.lock()
            && said.is_some_and(|said| said.elapsed() > FORGOTTEN)
        {
            *said = None;
            self.wish.send_replace(Play::default());
        }
    }
}

/// How a page says what it wants.
#[derive(Debug, Deserialize)]
struct Asked {
    model: String,
    version: u64,
    callers: usize,
    slo_ms: Option<f64>,
}

/// `POST /page/play?model=NAME&version=N&callers=N[&slo_ms=N]`
pub(super) fn answer(api: &Api, request: &HttpRequest) -> Result<HttpResponse, InferError> {
    let client = api.clients.identify(request.head())?;
    let is_ours = request.headers().contains_key(OURS);
    if !is_ours || api.live.desk.offer(Door::Clients, request).is_none() {
        return Ok(refuse(StatusCode::FORBIDDEN, "forbidden", "not offered here, or not to you"));
    }
    let bad = |text: String| Problem::bad("bad_parameter", text);
    let Asked { model, version, callers, slo_ms } =
        Query::<Asked>::from_query(request.query_string())
            .map_err(|error| bad(error.to_string()))?
            .into_inner();
    if callers > MOST_CALLERS || slo_ms.is_some_and(|ms| !TARGETS.contains(&ms)) {
        return Err(bad(format!("at most {MOST_CALLERS} callers, and {TARGETS:?} ms")).into());
    }
    let text = version.to_string();
    let model = api.catalog.find(&model, Some(&text), |name| client.may_use(name))?;
    let queue = Some(model.spec.queue.clone());
    let slo = slo_ms.map(|ms| Duration::from_secs_f64(ms / 1e3));
    api.live.desk.wish(Play { queue, callers, slo });
    Ok(HttpResponse::NoContent().finish())
}

/// Whether a browser on this machine sent it, to this machine by its own name.
fn is_local(request: &HttpRequest) -> bool {
    let headers = request.headers();
    let peer = request.peer_addr().is_some_and(|peer| peer.ip().is_loopback());
    let relayed =
        headers.contains_key(header::X_FORWARDED_FOR) || headers.contains_key(header::FORWARDED);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    peer && !relayed && is_own_name(host)
}

/// Whether a host, with or without its port, is a loopback address or `localhost`.
fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_own_names_are_its_own() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "127.0.0.1", "[::1]:80"] {
            assert!(is_own_name(host), "{host}");
        }
        for host in ["", "evil.example:8080", "localhost.evil.example", "10.0.0.1:8080", "[::1].a"]
        {
            assert!(!is_own_name(host), "{host}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_lasts_as_long_as_a_page_repeats_it() {
        let desk = Desk::default();
        let plays = desk.plays();
        let play = Play { queue: Some(QueueName::new("m", 1)), callers: 3, slo: None };
        for _ in 0..5 {
            desk.wish(play.clone());
            tokio::time::advance(FORGOTTEN / 2).await;
            desk.tick();
            assert_eq!(*plays.borrow(), play);
        }
        tokio::time::advance(FORGOTTEN).await;
        desk.tick();
        assert_eq!(*plays.borrow(), Play::default());
    }
}
