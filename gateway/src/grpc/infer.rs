//! Answers inferences: `ModelInfer`, and what it shares with streams.

use std::net::IpAddr;

use batchfleet_broker::{ModelSpec, wire};
use batchfleet_oip::{
    Problem,
    grpc::{
        request::{self, Target},
        response,
    },
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use tonic::{Code, Status, metadata::GRPC_CONTENT_TYPE};

use super::{
    codec, deadline,
    origin::{Origin, Peer},
    parts::Parts,
    receive::{Message, Messages},
    span,
    status::status,
    thread::Thread,
};
use crate::{
    access::{Answered, Visit},
    ask::{ParsedRequest, Prediction},
    body::{Body, Encoding},
    books::Record,
    clients::{Client, RequestOrigin},
    error::InferError,
    memory::MemoryShare,
    metrics::Protocol,
    usage::{RequestUsage, compute_share},
    wishes::{self, Wishes},
};

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// `inference.GRPCInferenceService/ModelInfer`
pub(super) async fn answer(
    thread: &Thread,
    peer: &Peer,
    request: Request<Incoming>,
) -> Result<Response<Parts>, Status> {
    let (head, body) = request.into_parts();
    let origin = Origin { peer, metadata: &head.headers };
    let mut inference = Inference::begin(thread, &origin, "ModelInfer");
    match only(&mut inference, &origin, body).await {
        Ok((answer, compresses)) => {
            let mut response = begin_response(compresses);
            if let Some(batch) = answer.batch
                && let Ok(batch) = HeaderValue::from_str(&batch)
            {
                response.headers_mut().insert(HeaderName::from_static(wishes::BATCH), batch);
            }
            inference.end(None);
            Ok(response.map(|()| Parts::new(answer.pieces, answer.share)))
        }
        Err(error) => {
            let status = status(&error);
            inference.end(Some((&error, status.code())));
            Err(status)
        }
    }
}

async fn only(
    inference: &mut Inference<'_>,
    origin: &Origin<'_>,
    body: Incoming,
) -> Result<(Answer, bool), InferError> {
    let api = &inference.thread.api;
    let client = inference.identify(origin).await?;
    let head = CallHead::read(origin.metadata)?;
    let mut messages = Messages::new(body, head.encoding);
    let message = messages.only(api.body, api.budget.share()).await?;
    let answer = inference.predict(client, message, head, false).await?;
    Ok((answer, head.compresses))
}

/// The head of a call that is answered with messages.
pub(super) fn begin_response(compresses: bool) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    if compresses {
        headers.insert(ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// What the metadata of a call asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallHead {
    wishes: Wishes,
    /// The compression of the messages that are compressed.
    pub(super) encoding: Option<Encoding>,
    /// Whether to compress the answers to compressed messages.
    pub(super) compresses: bool,
    describes_batch: bool,
}

impl CallHead {
    /// Reads the metadata in one pass: to search for each name in turn would take longer.
    pub(super) fn read(metadata: &HeaderMap) -> Result<Self, Problem> {
        let (mut deadline, mut encoding) = (None, None);
        let (mut timeout, mut priority, mut accepted) = (None, None, None);
        let mut describes_batch = false;
        for (name, value) in metadata {
            match name.as_str() {
                "grpc-timeout" => deadline = deadline.or(Some(value)),
                "grpc-encoding" => encoding = encoding.or(Some(value)),
                "grpc-accept-encoding" => set_once(&mut accepted, name, value)?,
                wishes::TIMEOUT => set_once(&mut timeout, name, value)?,
                wishes::PRIORITY => set_once(&mut priority, name, value)?,
                wishes::BATCH => describes_batch = true,
                _ => {}
            }
        }
        let deadline = deadline.map(|value| deadline::parse(value.as_bytes())).transpose()?;
        let encoding = codec::encoding(encoding.map(HeaderValue::as_bytes))?;
        let mut accepted = accepted.unwrap_or_default().split(',');
        let accepts = accepted.any(|accepted| accepted.trim() == "gzip");
        Ok(Self {
            wishes: Wishes::read(timeout, priority)?.within(deadline),
            encoding,
            compresses: accepts && encoding == Some(Encoding::Gzip),
            describes_batch,
        })
    }
}

/// Sets the value of metadata that may occur only once and must be text.
fn set_once<'a>(
    known: &mut Option<&'a str>,
    name: &HeaderName,
    value: &'a HeaderValue,
) -> Result<(), Problem> {
    if known.is_some() {
        return Err(Problem::bad("bad_header", format!("{name} is given twice")));
    }
    let text = value.to_str();
    let text = text.map_err(|_| Problem::bad("bad_header", format!("{name} is not text")))?;
    *known = Some(text.trim());
    Ok(())
}

/// One inference, from its arrival to its answer.
pub(super) struct Inference<'a> {
    pub(super) thread: &'a Thread,
    /// The client's id for the request, once it is known.
    pub(super) id: String,
    record: Record<'a>,
    used: RequestUsage,
    visit: Option<Visit>,
}

/// The answer to an inference: the frame of its message.
pub(super) struct Answer {
    pub(super) pieces: Vec<Bytes>,
    pub(super) share: MemoryShare,
    batch: Option<String>,
}

impl<'a> Inference<'a> {
    /// Begins the record of an inference that arrives now.
    pub(super) fn begin(thread: &'a Thread, origin: &Origin<'_>, method: &'static str) -> Self {
        let api = &thread.api;
        let trace = span::begin(&api.traces, origin.metadata, method);
        let path = || format!("/{}/{method}", span::SERVICE);
        Self {
            thread,
            id: String::new(),
            record: api.core.arrive(trace, Protocol::Grpc),
            used: RequestUsage::default(),
            visit: api.access_log.begin(
                "POST",
                path,
                origin.peer().as_ref().map(IpAddr::to_canonical),
            ),
        }
    }

    /// Identifies the client.
    pub(super) async fn identify(&mut self, origin: &Origin<'_>) -> Result<Client, InferError> {
        let client = self.thread.api.core.clients.identify_patiently(origin).await?;
        self.used.client = Some(client.label());
        Ok(client)
    }

    /// Reads the message of the inference, and answers it. `streams` tells whether it came on a stream.
    pub(super) async fn predict(
        &mut self,
        client: Client,
        message: Message,
        head: CallHead,
        streams: bool,
    ) -> Result<Answer, InferError> {
        let api = &self.thread.api;
        let Message { body, encoding } = message;
        let body = match encoding {
            None => body,
            Some(encoding) => {
                let most = api.body.bytes;
                // The inflated size is not known yet: never inflate on this thread.
                api.offload.run(usize::MAX, move || encoding.inflate(body, most)).await??
            }
        };
        let target = Target::read(&body.bytes)?;
        self.id = target.id;
        let version = target.version.as_deref();
        let asked = api.core.begin(&mut self.record, client, &target.name, version).await?;
        self.used.model = Some(asked.model.spec.queue.model.as_str().into());
        let model = asked.model.clone();
        let read = api.offload.run(body.bytes.len(), move || parse(body, &model.spec));
        let (mut parsed, mut share) = read.await??;
        head.wishes.apply(&mut parsed.request);
        (self.used.rows, self.used.request_bytes) = (parsed.request.rows, parsed.bytes);
        let prediction =
            api.core.infer(&mut self.record, &asked, parsed, &self.thread.mailbox).await?;
        let Prediction { outputs, timing, id, wanted } = prediction;
        self.used.compute = compute_share(&timing, self.used.rows);
        let compress = head.compresses && encoding == Some(Encoding::Gzip);
        let bytes = outputs.iter().map(|output| output.data.len()).sum();
        // Count the outputs before encoding, which may take a while.
        share.force(bytes);
        let (model, work) = (asked.model.clone(), if compress { bytes } else { 0 });
        let encode = if streams { response::encode_streamed } else { response::encode };
        let encoded = api.offload.run(work, move || {
            codec::frame(encode(&model.spec, id.as_deref(), &wanted, &outputs)?, compress)
        });
        let pieces = encoded.await??;
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        share.force(bytes);
        self.used.response_bytes = bytes as u64;
        let batch = head.describes_batch.then(|| wishes::batch(&timing));
        Ok(Answer { pieces, share, batch })
    }

    /// Ends the record: with an error and the status that the client gets, or with success.
    pub(super) fn end(mut self, failure: Option<(&InferError, Code)>) {
        if let Some((error, _)) = failure {
            self.record.failed(error);
        }
        let grpc_status = failure.map_or(Code::Ok, |(_, status)| status);
        self.record.attribute(span::status(grpc_status));
        self.thread.api.core.usage.count(&self.used);
        if let Some(visit) = self.visit {
            visit.log(
                &self.used,
                &Answered {
                    status: 200,
                    grpc_status: Some(grpc_status.into()),
                    code: failure.map(|(error, _)| error.code()),
                    bytes: self.used.response_bytes,
                },
            );
        }
    }
}

/// Reads a message. Typed contents are converted to new buffers; raw tensors are slices of the message.
fn parse(body: Body, model: &ModelSpec) -> Result<(ParsedRequest, MemoryShare), InferError> {
    let Body { bytes, mut share } = body;
    let request = request::parse(&bytes, model)?;
    let held: usize = request.inputs.iter().map(|input| input.data.len()).sum();
    share.resize(held.max(bytes.len()))?;
    let (digest, bytes) = (wire::digest(&request.inputs), bytes.len());
    Ok((ParsedRequest { request, digest, bytes }, share))
}
