//! Handles inference requests.

use std::sync::Arc;

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::header::{self, ContentType, HeaderName, HeaderValue},
    web::Data,
};
use batchfleet_broker::{ModelSpec, Timing, wire};
use batchfleet_oip::{
    infer::{self, HeaderLength, InferRequest, Outline},
    response,
    v1::{self, Form},
};
use bytes::Bytes;

use super::{
    cors,
    head::{model_path, single_header},
    media_type::{self, MediaType},
    request_body::RequestBody,
    response_body::{ResponseBody, sent_bytes},
    span,
    unread::refuse,
};
use crate::{
    api::Api,
    ask::{ParsedRequest, Prediction},
    body::{Body, BodyReader, Encoding, Source},
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

/// Size of a body in bytes, beyond which the request may be refused before its tensors have arrived; also
/// the maximum length of the JSON that is read for this. A smaller body has usually arrived already.
const LARGE: usize = 64 << 10;

/// How many bytes of binary tensors are checked and digested in the time that one byte of JSON takes.
const BINARY_SPEED: usize = 16;

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
    body: RequestBody,
    api: Data<Api>,
    mailbox: Data<Mailbox>,
) -> HttpResponse {
    answer(request, body, &api, &mailbox, Version::Two).await
}

/// `POST /v1/models/{model}[/versions/{version}]:predict`
pub(super) async fn predict(
    request: HttpRequest,
    body: RequestBody,
    api: Data<Api>,
    mailbox: Data<Mailbox>,
) -> HttpResponse {
    answer(request, body, &api, &mailbox, Version::One).await
}

async fn answer(
    request: HttpRequest,
    mut body: RequestBody,
    api: &Api,
    mailbox: &Mailbox,
    version: Version,
) -> HttpResponse {
    let mut record = api.core.arrive(span::begin(&api.traces, &request), Protocol::Http);
    let mut used = RequestUsage::default();
    let serving = Serving { api, mailbox, version, record: &mut record, used: &mut used };
    let answer = match serving.serve(&request, &mut body).await {
        Ok(answer) => answer,
        Err(error) => {
            record.failed(&error);
            refuse(&error, request.headers(), body).await
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
        body: &mut RequestBody,
    ) -> Result<HttpResponse, InferError> {
        let Self { api, mailbox, version: protocol, record, used } = self;
        let client = api.core.clients.identify_patiently(request).await?;
        used.client = Some(client.label());
        let (name, version) = model_path(request);
        let asked = api.core.begin(record, client, name, version).await?;
        used.model = Some(asked.model.spec.queue.model.as_str().into());
        let announced = body.announced(request.headers());
        let head = InferHead::read(request, protocol, announced)?;
        let mut body = BodyReader::begin(body, announced, api.body, api.budget.share())?;
        if let Some((outline, bytes)) = head.outline(&asked.model.spec, &mut body).await?
            && let Err(error) = api.core.foresee(record, &asked, &outline)
        {
            (used.rows, used.request_bytes) = (outline.rows, bytes);
            // If the rest does not come, the connection closes.
            body.discard(api.core.turn_to_refuse(&error, bytes)).await.ok();
            return Err(error);
        }
        let Read { parsed, share, form } = read(api, &asked.model, head, body).await?;
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

/// What the head of a request tells.
struct InferHead {
    version: Version,
    encoding: Option<Encoding>,
    header_length: HeaderLength,
    kind: MediaType,
    is_foreign: bool,
    wishes: Wishes,
    /// The length of the body.
    announced: Option<u64>,
}

impl InferHead {
    fn read(
        request: &HttpRequest,
        version: Version,
        announced: Option<u64>,
    ) -> Result<Self, InferError> {
        let encodings = request.headers().get_all(header::CONTENT_ENCODING);
        let encoding = Encoding::parse(encodings.map(HeaderValue::as_bytes))?;
        let header_length = single_header(request, HEADER_LENGTH)?
            .map_or(Ok(HeaderLength::Absent), |value| HeaderLength::parse(value.as_bytes()))?;
        let content_type = single_header(request, "content-type")?.unwrap_or_default();
        let kind = media_type::check(content_type)?;
        let is_foreign = cors::is_foreign(request);
        let timeout = single_header(request, TIMEOUT)?;
        let wishes = Wishes::read(timeout, single_header(request, PRIORITY)?)?;
        Ok(Self { version, encoding, header_length, kind, is_foreign, wishes, announced })
    }

    /// What a large binary request asks for, once the beginning of its body has arrived, and the length
    /// of the body. `None` if only the whole body tells, and for mistakes, which are reported when it
    /// has been read.
    async fn outline<S: Source>(
        &self,
        model: &ModelSpec,
        body: &mut BodyReader<'_, S>,
    ) -> Result<Option<(Outline, usize)>, InferError> {
        let is_plain = self.encoding.is_none() && self.version == Version::Two;
        let announced = self.announced.and_then(|length| usize::try_from(length).ok());
        let Some(bytes) = announced.filter(|&bytes| is_plain && bytes > LARGE) else {
            return Ok(None);
        };
        let json = match self.header_length {
            HeaderLength::Raw => None,
            HeaderLength::Json(length) if length <= LARGE => {
                let Some(json) = body.reach(length).await?.get(..length) else { return Ok(None) };
                Some(json)
            }
            HeaderLength::Json(_) | HeaderLength::Absent => return Ok(None),
        };
        let outline = infer::outline(json, bytes, model).ok();
        Ok(outline.map(|mut outline| {
            self.wishes.apply_early(&mut outline);
            (outline, bytes)
        }))
    }
}

/// Reads and checks the whole request.
async fn read<S: Source>(
    api: &Api,
    model: &Arc<Model>,
    head: InferHead,
    body: BodyReader<'_, S>,
) -> Result<Read, InferError> {
    let InferHead { version, encoding, header_length, kind, is_foreign, wishes, .. } = head;
    let body = body.all().await?;
    let work = match (encoding, header_length) {
        // The inflated size is not known yet: never inflate on this thread.
        (Some(_), _) => usize::MAX,
        (None, HeaderLength::Absent) => body.bytes.len(),
        (None, HeaderLength::Json(json)) => json.saturating_add(body.bytes.len() / BINARY_SPEED),
        (None, HeaderLength::Raw) => body.bytes.len() / BINARY_SPEED,
    };
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
    let request = infer::parse(&bytes, header_length, model)?;
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
