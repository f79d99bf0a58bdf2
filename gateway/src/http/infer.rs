//! One request in, its own prediction out.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, ContentType, HeaderName},
    web::{Bytes, Data, Payload},
};
use batchfleet_broker::{Priority, Reply, Tensor};
use tokio::time::{Duration, Instant};

use super::{Api, model, single_header};
use crate::{
    dispatch::Question,
    error::InferError,
    model::Model,
    oip::{
        self, Problem,
        infer::{HeaderLength, InferRequest, WantedOutput},
    },
};

/// Says how many bytes of a body are its JSON head; what follows are binary tensors.
const HEADER_LENGTH: &str = "inference-header-content-length";
/// A deadline of the request's own, in milliseconds.
const TIMEOUT: &str = "x-request-timeout-ms";

/// `POST /v2/models/{model}[/versions/{version}]/infer`
pub(super) async fn infer(
    request: HttpRequest,
    payload: Payload,
    api: Data<Api>,
) -> Result<HttpResponse, InferError> {
    let arrived = Instant::now();
    let model =
        model(&api, &request).inspect_err(|error| api.metrics.unknown_model(error.code()))?;
    model.metrics.offered();
    let parsed = read(&api, &model, &request, payload)
        .await
        .inspect_err(|problem| model.metrics.refused(problem.code))?;
    let timeout = parsed.timeout.map_or(api.deadline, |wish| wish.min(api.max_deadline));
    let question = Question {
        outputs: names(&parsed.outputs, &model),
        inputs: parsed.inputs,
        rows: parsed.rows,
        priority: Priority::Default,
        deadline: arrived + timeout,
        arrived,
    };
    let reply = api.dispatcher.infer(&model, question).await;
    match &reply {
        Ok(Reply { outcome: Ok(_), timing, .. }) => {
            model.tally().success(parsed.rows, timing, arrived.elapsed());
        }
        Ok(_) | Err(_) => model.tally().failure(arrived.elapsed()),
    }
    let outputs = reply?.outcome.map_err(InferError::Worker)?;
    answer(&model, parsed.id.as_deref(), &parsed.outputs, &outputs)
}

/// The wanted outputs as a job names them; none when all are wanted.
fn names(wanted: &[WantedOutput], model: &Model) -> Vec<String> {
    if wanted.len() == model.spec.outputs.len() {
        return Vec::new();
    }
    wanted.iter().map(|output| output.name.clone()).collect()
}

/// Reads and checks the whole request.
async fn read(
    api: &Api,
    model: &Model,
    request: &HttpRequest,
    payload: Payload,
) -> Result<InferRequest, Problem> {
    check_encoding(request)?;
    let header_length = single_header(request, HEADER_LENGTH)?
        .map_or(Ok(HeaderLength::Absent), |value| HeaderLength::parse(value.as_bytes()))?;
    check_media_type(request)?;
    let timeout = timeout(request)?;
    let body = read_body(request, payload, api.max_body).await?;
    let mut parsed = oip::infer::parse(&body, header_length, &model.spec, &api.limits)?;
    parsed.timeout = parsed.timeout.into_iter().chain(timeout).min();
    Ok(parsed)
}

/// Bodies come as they are; inflating them without a bound is how small bombs fill memories.
fn check_encoding(request: &HttpRequest) -> Result<(), Problem> {
    let mut encodings = request.headers().get_all(header::CONTENT_ENCODING);
    if encodings.any(|encoding| encoding != "identity") {
        return Err(unsupported_media("send the body without content-encoding"));
    }
    Ok(())
}

/// Clients of the protocol send octet-stream, JSON or no content type at all, whatever the body
/// holds; so it never decides how a body is read. One that names something else is a mistake.
fn check_media_type(request: &HttpRequest) -> Result<(), Problem> {
    let Some(media_type) = single_header(request, "content-type")? else { return Ok(()) };
    let mut parts = media_type.split(';').map(|part| part.trim().to_ascii_lowercase());
    let kind = parts.next().unwrap_or_default();
    let charset_fits = parts
        .filter_map(|part| part.strip_prefix("charset=").map(str::to_owned))
        .all(|charset| matches!(charset.trim_matches('"'), "utf-8" | "us-ascii"));
    match kind.as_str() {
        "" | "application/octet-stream" => Ok(()),
        "application/json" | "text/json" if charset_fits => Ok(()),
        _ => Err(unsupported_media("send application/json or application/octet-stream")),
    }
}

fn unsupported_media(message: &str) -> Problem {
    Problem { status: 415, code: "unsupported_media_type", message: message.to_owned() }
}

/// The request's own deadline, from its header.
fn timeout(request: &HttpRequest) -> Result<Option<Duration>, Problem> {
    let Some(text) = single_header(request, TIMEOUT)? else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(millis) if millis > 0 => Ok(Some(Duration::from_millis(millis))),
        _ => {
            Err(Problem::bad("bad_parameter", format!("{TIMEOUT} must be a whole number above 0")))
        }
    }
}

async fn read_body(
    request: &HttpRequest,
    payload: Payload,
    limit: usize,
) -> Result<Bytes, Problem> {
    let too_large = || Problem {
        status: 413,
        code: "too_large",
        message: format!("the body is larger than {limit} bytes"),
    };
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    match payload.to_bytes_limited(limit).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => Err(Problem::bad("bad_request", format!("the body broke off: {error}"))),
        Err(_) => Err(too_large()),
    }
}

/// Writes the outputs as the caller asked to see them.
fn answer(
    model: &Model,
    id: Option<&str>,
    wanted: &[WantedOutput],
    outputs: &[Tensor],
) -> Result<HttpResponse, InferError> {
    let encoded = oip::response::encode(&model.spec, id, wanted, outputs)?;
    let mut response = HttpResponse::Ok();
    match encoded.json_length {
        Some(length) => response
            .insert_header(ContentType::octet_stream())
            .insert_header((HeaderName::from_static(HEADER_LENGTH), length)),
        None => response.insert_header(ContentType::json()),
    };
    Ok(response.body(encoded.body))
}
