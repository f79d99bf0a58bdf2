//! Sets the live controls: `POST /page/play?model=NAME&version=N&callers=N[&slo_ms=N]`.
//!
//! A browser opens at most six connections to a server, too few to fill a batch. The server
//! therefore runs the callers itself. Only browsers on the server's own machine may set the
//! controls. A page of another site cannot set them through such a browser: the `x-live-page`
//! header makes browsers send a CORS preflight, which this server never grants, and the `Host`
//! header must be this machine's own name.

use std::{ops::RangeInclusive, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web::Query};
use batchfleet_oip::Problem;
use serde::Deserialize;

use super::{
    controls::{LiveControls, MOST_CALLERS},
    local::is_local,
    response::refuse,
};
use crate::{api::Api, error::InferError};

/// The latency targets that a page may set, in milliseconds.
const TARGETS: RangeInclusive<f64> = 1.0..=1000.0;
/// The header that only this server's own pages can send.
const OWN_PAGE: &str = "x-live-page";

#[derive(Debug, Deserialize)]
struct Parameters {
    model: String,
    version: u64,
    callers: usize,
    slo_ms: Option<f64>,
}

/// Handles a request to set the controls.
pub(super) fn answer(api: &Api, request: &HttpRequest) -> Result<HttpResponse, InferError> {
    let client = api.core.clients.identify(request)?;
    let is_own = request.headers().contains_key(OWN_PAGE) && is_local(request);
    if !is_own || api.live.controls.offer().is_none() {
        api.core.clients.forbidden();
        let text =
            "only a live page on this machine may set a load, and only if this server runs it";
        return Ok(refuse(StatusCode::FORBIDDEN, "forbidden", text));
    }
    let bad = |text: String| Problem::bad("bad_parameter", text);
    let Parameters { model, version, callers, slo_ms } =
        Query::<Parameters>::from_query(request.query_string())
            .map_err(|error| bad(error.to_string()))?
            .into_inner();
    if callers > MOST_CALLERS || slo_ms.is_some_and(|ms| !TARGETS.contains(&ms)) {
        let (least, most) = (TARGETS.start(), TARGETS.end());
        let text = format!("at most {MOST_CALLERS} callers, and a target of {least} to {most} ms");
        return Err(bad(text).into());
    }
    let text = version.to_string();
    let model = api.core.catalog.find(&model, Some(&text), |name| client.may_use(name))?;
    let queue = Some(model.spec.queue.clone());
    let slo = slo_ms.map(|ms| Duration::from_secs_f64(ms / 1e3));
    api.live.controls.set(LiveControls { queue, callers, slo });
    Ok(HttpResponse::NoContent().finish())
}
