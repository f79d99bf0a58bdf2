//! One request in, its own prediction out.

use std::{cell::Cell, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, ContentType, HeaderName, HeaderValue},
    web::{Data, Payload},
};
use batchfleet_broker::{ModelSpec, Priority, Release, Reply, Tensor, Timing, wire};
use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::{
    Api, content_length, model, response_body::ResponseBody, single_header, unread::refuse,
};
use crate::{
    body::{self, Body, BodyShare, Encoding},
    clients,
    dispatch::Question,
    error::InferError,
    mailbox::Mailbox,
    model::Model,
    trace::Trace,
};
use batchfleet_oip::{
    self, Problem,
    infer::{HeaderLength, InferRequest, WantedOutput},
};

/// Says how many bytes of a body are its JSON head; what follows are binary tensors.
const HEADER_LENGTH: &str = "inference-header-content-length";
/// A deadline of the request's own, in milliseconds.
const TIMEOUT: &str = "x-request-timeout-ms";
/// The class a request wants to wait in, by name.
const PRIORITY: &str = "x-priority";

/// Asks to hear about the batch a request travelled in; also the header that tells.
const BATCH: &str = "x-batch";

/// `POST /v2/models/{model}[/versions/{version}]/infer`
pub(super) async fn infer(
    request: HttpRequest,
    mut payload: Payload,
    api: Data<Api>,
    mailbox: Data<Mailbox>,
) -> HttpResponse {
    let mut trace = api.traces.begin(&request);
    let answer = match serve(&request, &mut payload, &api, &mailbox, &mut trace).await {
        Ok(answer) => answer,
        Err(error) => {
            trace.failed(&error);
            refuse(&error, content_length(request.headers()), payload).await
        }
    };
    trace.answered(answer.status());
    answer
}

async fn serve(
    request: &HttpRequest,
    payload: &mut Payload,
    api: &Api,
    mailbox: &Mailbox,
    trace: &mut Trace,
) -> Result<HttpResponse, InferError> {
    let arrived = Instant::now();
    let (client, model) =
        model(api, request).inspect_err(|error| api.metrics.unknown_model(error.code()))?;
    model.asked(request.match_info().get("version").is_some());
    let arrival = Arrival::new(&model);
    let _seat = arrival.check(api.clients.admit(&client, arrived))?;
    let Read { parsed, digest, share } =
        arrival.check(read(api, &model, request, payload).await)?;
    arrival.hand_on();
    trace.read(&model, &parsed);
    let timeout = parsed.timeout.map_or(api.deadline, |wish| wish.min(api.max_deadline));
    let question = Question {
        outputs: names(&parsed.outputs, &model),
        inputs: parsed.inputs,
        digest,
        rows: parsed.rows,
        priority: client.class(parsed.priority),
        trace: trace.context(),
        deadline: arrived + timeout,
        arrived,
    };
    let reply = api.dispatcher.infer(&model, question, mailbox).await;
    match &reply {
        Ok(Reply { outcome: Ok(_), timing, .. }) => {
            model.tally().success(parsed.rows, timing, arrived.elapsed());
        }
        Ok(_) | Err(_) => model.tally().failure(arrived.elapsed()),
    }
    let Reply { outcome, timing, .. } = reply?;
    let outputs = outcome.map_err(InferError::Worker)?;
    let wanted = Wanted { id: parsed.id, outputs: parsed.outputs };
    let mut answered = answer(api, model, wanted, outputs, share).await?;
    if request.headers().contains_key(BATCH) {
        tell(&mut answered, &timing);
    }
    Ok(answered)
}

/// Says which batch an answer travelled in, as a dictionary of RFC 8941: its rows, those added to
/// fill it up, and why it left; how long this request waited for a worker and then for its batch, and
/// how long the model ran, in milliseconds.
fn tell(answer: &mut HttpResponse, timing: &Timing) {
    let release = timing.release.map_or("none", Release::name);
    let [queue, wait, run] = [timing.queue, timing.batch_wait, timing.compute_infer]
        .map(|time| time.as_secs_f64() * 1e3);
    let Timing { batch_rows, padded_rows, .. } = timing;
    let text = format!(
        "rows={batch_rows}, padding={padded_rows}, release={release}, queue-ms={queue:.3}, \
         wait-ms={wait:.3}, run-ms={run:.3}"
    );
    if let Ok(value) = HeaderValue::from_str(&text) {
        answer.headers_mut().insert(HeaderName::from_static(BATCH), value);
    }
}

/// A request that arrived and is not yet handed on. Dropped before that, its caller left.
struct Arrival<'a> {
    model: &'a Model,
    refused: Cell<Option<&'static str>>,
}

impl<'a> Arrival<'a> {
    fn new(model: &'a Model) -> Self {
        model.metrics.offered();
        Self { model, refused: Cell::new(Some("cancelled")) }
    }

    /// Takes note of why it goes no further, if it does not.
    fn check<T>(&self, step: Result<T, InferError>) -> Result<T, InferError> {
        step.inspect_err(|error| self.refused.set(Some(error.code())))
    }

    /// It goes on; others count what becomes of it.
    fn hand_on(self) {
        self.refused.set(None);
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        if let Some(reason) = self.refused.get() {
            self.model.metrics.refused(reason);
        }
    }
}

/// The wanted outputs as a job names them; none when all are wanted.
fn names(wanted: &[WantedOutput], model: &Model) -> Vec<String> {
    if wanted.len() == model.spec.outputs.len() {
        return Vec::new();
    }
    wanted.iter().map(|output| output.name.clone()).collect()
}

/// A request that was read, and what it holds of the memory for bodies.
struct Read {
    parsed: InferRequest,
    /// Of its inputs.
    digest: u64,
    share: BodyShare,
}

/// Reads and checks the whole request.
async fn read(
    api: &Api,
    model: &Arc<Model>,
    request: &HttpRequest,
    payload: &mut Payload,
) -> Result<Read, InferError> {
    let encodings = request.headers().get_all(header::CONTENT_ENCODING);
    let encoding = Encoding::parse(encodings.map(HeaderValue::as_bytes))?;
    let header_length = single_header(request, HEADER_LENGTH)?
        .map_or(Ok(HeaderLength::Absent), |value| HeaderLength::parse(value.as_bytes()))?;
    check_media_type(request)?;
    let (timeout, class) = (timeout(request)?, class(request)?);
    let announced = content_length(request.headers());
    let body = body::read(payload, announced, api.body, api.budget.share()).await?;
    // Few compressed bytes may be many.
    let work = if encoding.is_some() { usize::MAX } else { body.bytes.len() };
    let (model, most) = (model.clone(), api.body.bytes);
    let read = api.offload.run(work, move || {
        let body = match encoding {
            Some(encoding) => encoding.inflate(body, most)?,
            None => body,
        };
        parse(body, header_length, &model.spec)
    });
    let mut read = read.await??;
    read.parsed.timeout = read.parsed.timeout.into_iter().chain(timeout).min();
    read.parsed.priority = class.unwrap_or(read.parsed.priority);
    Ok(read)
}

/// Parses a body, which is let go: tensors either are slices of it, or were written anew.
fn parse(body: Body, header_length: HeaderLength, model: &ModelSpec) -> Result<Read, InferError> {
    let Body { bytes, mut share } = body;
    let parsed = batchfleet_oip::infer::parse(&bytes, header_length, model)?;
    if header_length == HeaderLength::Absent {
        share.resize(parsed.inputs.iter().map(|input| input.data.len()).sum())?;
    }
    Ok(Read { digest: wire::digest(&parsed.inputs), parsed, share })
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

/// The class that the request's header asks for.
fn class(request: &HttpRequest) -> Result<Option<Priority>, Problem> {
    let Some(name) = single_header(request, PRIORITY)? else { return Ok(None) };
    clients::class(name).map(Some).ok_or_else(|| {
        let message = format!("{PRIORITY} must be critical, default or sheddable");
        Problem::bad("bad_parameter", message)
    })
}

/// How the caller asked to see the outputs.
struct Wanted {
    id: Option<String>,
    outputs: Vec<WantedOutput>,
}

/// Writes the outputs as the caller asked to see them.
async fn answer(
    api: &Api,
    model: Arc<Model>,
    wanted: Wanted,
    outputs: Vec<Tensor>,
    mut share: BodyShare,
) -> Result<HttpResponse, InferError> {
    // Held from now on, also while others are being written.
    share.force(outputs.iter().map(|output| output.data.len()).sum());
    let is_written = |name: &str| wanted.outputs.iter().any(|w| w.name == name && !w.binary);
    let written = outputs.iter().filter(|output| is_written(&output.name));
    let work = written.map(|output| output.data.len()).sum();
    let encoded = api.offload.run(work, move || {
        batchfleet_oip::response::encode(
            &model.spec,
            wanted.id.as_deref(),
            &wanted.outputs,
            &outputs,
        )
    });
    let encoded = encoded.await??;
    share.force(encoded.body.iter().map(Bytes::len).sum());
    let mut response = HttpResponse::Ok();
    match encoded.json_length {
        Some(length) => response
            .insert_header(ContentType::octet_stream())
            .insert_header((HeaderName::from_static(HEADER_LENGTH), length)),
        None => response.insert_header(ContentType::json()),
    };
    Ok(response.body(ResponseBody::new(encoded.body, share)))
}
