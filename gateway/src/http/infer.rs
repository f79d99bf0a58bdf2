//! Handles inference requests.

use std::sync::Arc;

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::header::{self, ContentType, HeaderName, HeaderValue},
    web::{Data, Payload},
};
use batchfleet_broker::{ModelSpec, Timing, wire};
use batchfleet_oip::{
    infer::{HeaderLength, InferRequest},
    response,
    v1::{self, Form},
};
use bytes::Bytes;

use super::{
    cors,
    head::{content_length, model_path, single_header},
    media_type,
    response_body::{ResponseBody, sent_bytes},
    span,
    unread::refuse,
};
use crate::{
    api::Api,
    ask::{ParsedRequest, Prediction},
    body::{self, Body, Encoding},
    books::Record,
    error::InferError,
    mailbox::Mailbox,
    memory::MemoryShare,
    metrics::Protocol,
    model::Model,
    usage::{RequestUsage, compute_share},
    wishes::{self, BATCH, PRIORITY, TIMEOUT, Wishes},
};

/// The length of a body's JSON head, in bytes; binary tensors follow the head.
const HEADER_LENGTH: &str = "inference-header-content-length";

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// Version 1 of KServe's protocol.
    One,
    /// The Open Inference Protocol.
    Two,
}

/// `POST /v2/models/{model}[/versions/{version}]/infer`
pub(super) async fn infer(
    request: HttpRequest,
    payload: Payload,
    api: Data<Api>,
    mailbox: Data<Mailbox>,
) -> HttpResponse {
    answer(request, payload, &api, &mailbox, Version::Two).await
}

/// `POST /v1/models/{model}[/versions/{version}]:predict`
pub(super) async fn predict(
    request: HttpRequest,
    payload: Payload,
    api: Data<Api>,
    mailbox: Data<Mailbox>,
) -> HttpResponse {
    answer(request, payload, &api, &mailbox, Version::One).await
}

async fn answer(
    request: HttpRequest,
    mut payload: Payload,
    api: &Api,
    mailbox: &Mailbox,
    version: Version,
) -> HttpResponse {
    let mut record = api.core.arrive(span::begin(&api.traces, &request), Protocol::Http);
    let mut used = RequestUsage::default();
    let serving = Serving { api, mailbox, version, record: &mut record, used: &mut used };
    let answer = match serving.serve(&request, &mut payload).await {
        Ok(answer) => answer,
        Err(error) => {
            record.failed(&error);
            refuse(&error, content_length(request.headers()), payload).await
        }
    };
    record.attribute(span::status(&answer));
    used.response_bytes = sent_bytes(answer.body());
    api.core.usage.count(&used);
    request.extensions_mut().insert(used);
    answer
}

/// The parts that take part in serving one request.
struct Serving<'a, 'm> {
    api: &'a Api,
    mailbox: &'a Mailbox,
    version: Version,
    record: &'a mut Record<'m>,
    used: &'a mut RequestUsage,
}

impl Serving<'_, '_> {
    async fn serve(
        self,
        request: &HttpRequest,
        payload: &mut Payload,
    ) -> Result<HttpResponse, InferError> {
        let Self { api, mailbox, version: protocol, record, used } = self;
        let client = api.core.clients.identify_patiently(request).await?;
        used.client = Some(client.label());
        let (name, version) = model_path(request);
        let asked = api.core.begin(record, client, name, version).await?;
        used.model = Some(asked.model.spec.queue.model.as_str().into());
        let read = read(api, &asked.model, request, payload, protocol).await?;
        let Read { parsed, share, form } = read;
        (used.rows, used.request_bytes) = (parsed.request.rows, parsed.bytes);
        let prediction = api.core.infer(record, &asked, parsed, mailbox).await?;
        let timing = prediction.timing;
        used.compute = compute_share(&timing, used.rows);
        let mut answer = encode(api, asked.model.clone(), prediction, share, form).await?;
        if request.headers().contains_key(BATCH) {
            describe_batch(&mut answer, &timing);
        }
        Ok(answer)
    }
}

/// Adds the header that describes the batch.
fn describe_batch(answer: &mut HttpResponse, timing: &Timing) {
    if let Ok(value) = HeaderValue::from_str(&wishes::batch(timing)) {
        answer.headers_mut().insert(HeaderName::from_static(BATCH), value);
    }
}

/// A request that was read and checked.
struct Read {
    parsed: ParsedRequest,
    /// The share of the memory budget.
    share: MemoryShare,
    /// The form of a request of version 1 of KServe's protocol.
    form: Option<Form>,
}

/// Reads and checks the whole request.
async fn read(
    api: &Api,
    model: &Arc<Model>,
    request: &HttpRequest,
    payload: &mut Payload,
    version: Version,
) -> Result<Read, InferError> {
    let encodings = request.headers().get_all(header::CONTENT_ENCODING);
    let encoding = Encoding::parse(encodings.map(HeaderValue::as_bytes))?;
    let header_length = single_header(request, HEADER_LENGTH)?
        .map_or(Ok(HeaderLength::Absent), |value| HeaderLength::parse(value.as_bytes()))?;
    let content_type = single_header(request, "content-type")?.unwrap_or_default();
    let kind = media_type::check(content_type)?;
    let is_foreign = cors::is_foreign(request);
    let (timeout, class) = (single_header(request, TIMEOUT)?, single_header(request, PRIORITY)?);
    let wishes = Wishes::read(timeout, class)?;
    let announced = content_length(request.headers());
    let body = body::read(payload, announced, api.body, api.budget.share()).await?;
    // The inflated size is not known yet: never inflate on this thread.
    let work = if encoding.is_some() { usize::MAX } else { body.bytes.len() };
    let (model, most) = (model.clone(), api.body.bytes);
    let read = api.offload.run(work, move || {
        let body = match encoding {
            Some(encoding) => encoding.inflate(body, most)?,
            None => body,
        };
        media_type::check_page(kind, &body.bytes, is_foreign)?;
        match version {
            Version::One => parse_v1(body, &model.spec),
            Version::Two => parse(body, header_length, &model.spec),
        }
    });
    let mut read = read.await??;
    wishes.apply(&mut read.parsed.request);
    Ok(read)
}

/// Parses a body. Tensors in JSON are converted to new buffers, and the share then covers only
/// these; binary tensors are slices of the body.
fn parse(body: Body, header_length: HeaderLength, model: &ModelSpec) -> Result<Read, InferError> {
    let Body { bytes, mut share } = body;
    let request = batchfleet_oip::infer::parse(&bytes, header_length, model)?;
    if header_length == HeaderLength::Absent {
        share.resize(input_bytes(&request))?;
    }
    Ok(checked(request, bytes.len(), share, None))
}

/// Parses a body of version 1 of KServe's protocol.
fn parse_v1(body: Body, model: &ModelSpec) -> Result<Read, InferError> {
    let Body { bytes, mut share } = body;
    let (request, form) = v1::parse(&bytes, model)?;
    share.resize(input_bytes(&request))?;
    Ok(checked(request, bytes.len(), share, Some(form)))
}

fn checked(request: InferRequest, bytes: usize, share: MemoryShare, form: Option<Form>) -> Read {
    let digest = wire::digest(&request.inputs);
    Read { parsed: ParsedRequest { request, digest, bytes }, share, form }
}

fn input_bytes(request: &InferRequest) -> usize {
    request.inputs.iter().map(|input| input.data.len()).sum()
}

/// Encodes the outputs in the form that the caller wants.
async fn encode(
    api: &Api,
    model: Arc<Model>,
    prediction: Prediction,
    mut share: MemoryShare,
    form: Option<Form>,
) -> Result<HttpResponse, InferError> {
    let Prediction { outputs, id, wanted, .. } = prediction;
    // Count the outputs before encoding, which may take a while.
    share.force(outputs.iter().map(|output| output.data.len()).sum());
    let is_written = |name: &str| wanted.iter().any(|w| w.name == name && !w.binary);
    let written = outputs.iter().filter(|output| is_written(&output.name));
    let work = written.map(|output| output.data.len()).sum();
    let encoded = api.offload.run(work, move || match form {
        Some(form) => v1::encode(&model.spec, form, &wanted, &outputs),
        None => response::encode(&model.spec, id.as_deref(), &wanted, &outputs),
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
