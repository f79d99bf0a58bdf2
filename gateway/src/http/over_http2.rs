//! Answers requests over HTTP/2 with the handlers of HTTP/1.1.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use actix_http::{BoxedPayloadStream, HttpMessage, Payload, Request, error::PayloadError};
use actix_service::Service;
use actix_web::{
    HttpResponse, ResponseError,
    body::{BodySize, BoxBody, MessageBody},
    dev::ServiceResponse,
    http::{
        Method, Uri, Version,
        header::{HOST, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS},
    },
};
use batchfleet_oip::Problem;
use bytes::Bytes;
use futures_core::Stream;
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::connection::{Http2Client, WatchedBody};
use crate::{
    error::InferError,
    http2::{self, Call, Terms},
    tls::{CertificateName, Transport},
};

/// Serves the connection until the client or the gateway closes it.
pub(super) async fn serve<A>(
    client: Http2Client<'_, Transport>,
    address: Option<SocketAddr>,
    app: &Rc<A>,
    terms: &Terms<'_>,
) where
    A: Service<Request, Response = ServiceResponse<WatchedBody>, Error = actix_web::Error>
        + 'static,
{
    let Http2Client { stream, place, share } = client;
    let peer = Rc::new(Peer { address, certificate: stream.get_ref().certificate_name() });
    http2::serve(stream, &place, share, terms, |request, call| {
        answer(app.clone(), peer.clone(), call, request)
    })
    .await;
}

/// The other end of a connection.
struct Peer {
    address: Option<SocketAddr>,
    certificate: Option<CertificateName>,
}

/// Answers a request.
async fn answer<A>(
    app: Rc<A>,
    peer: Rc<Peer>,
    call: Rc<Call>,
    request: http::Request<Incoming>,
) -> http::Response<AnswerBody>
where
    A: Service<Request, Response = ServiceResponse<WatchedBody>, Error = actix_web::Error>,
{
    call.owes_answer();
    let is_head = request.method() == http::Method::HEAD;
    let (parts, body) = request.into_parts();
    let accepted = call.check_room().and_then(|()| Ok(convert(&parts, body, &peer)?));
    let answer = match accepted {
        Ok(request) => match app.call(request).await {
            Ok(answer) => answer.map_into_boxed_body().into_parts().1,
            Err(error) => error.error_response(),
        },
        Err(error) => refusal(&error),
    };
    sent(answer, is_head)
}

/// The answer to a request that reaches no handler.
fn refusal(error: &InferError) -> HttpResponse {
    let mut answer = error.error_response();
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// The request as the handlers read it.
fn convert(parts: &Parts, body: Incoming, peer: &Peer) -> Result<Request, Problem> {
    let payload = if body.is_end_stream() {
        Payload::None
    } else {
        let payload: BoxedPayloadStream = Box::pin(RequestBody(body));
        Payload::Stream { payload }
    };
    let mut request = Request::with_payload(payload);
    if let Some(name) = &peer.certificate {
        request.extensions_mut().insert(name.clone());
    }
    let head = request.head_mut();
    (head.version, head.peer_addr) = (Version::HTTP_2, peer.address);
    head.method = method(&parts.method)?;
    head.uri = target(&parts.uri)?;
    for (name, value) in &parts.headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        let value = HeaderValue::from_bytes(value.as_bytes());
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(malformed("a header is malformed"));
        };
        head.headers.append(name, value);
    }
    set_host(&mut head.headers, &parts.uri)?;
    Ok(request)
}

fn method(method: &http::Method) -> Result<Method, Problem> {
    if method == http::Method::CONNECT {
        let message = "the gateway is no proxy".to_owned();
        return Err(Problem { status: 405, code: "method_not_allowed", message });
    }
    Method::from_bytes(method.as_str().as_bytes()).map_err(|_| malformed("the method is malformed"))
}

/// The path and the query, as over HTTP/1.1.
fn target(uri: &http::Uri) -> Result<Uri, Problem> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    target.parse().map_err(|_| malformed("the request target is malformed"))
}

/// Sets the header `host` to the authority of the request, which stands for it in HTTP/2.
fn set_host(headers: &mut HeaderMap, uri: &http::Uri) -> Result<(), Problem> {
    if let Some(authority) = uri.authority() {
        let host = HeaderValue::from_str(authority.as_str());
        headers.insert(HOST, host.map_err(|_| malformed("the authority is malformed"))?);
    }
    if headers.get_all(HOST).count() == 1 {
        return Ok(());
    }
    Err(malformed("a request has exactly one authority or host header"))
}

fn malformed(text: &str) -> Problem {
    Problem::bad("bad_http", text)
}

/// The answer as HTTP/2 sends it.
fn sent(answer: HttpResponse, is_head: bool) -> http::Response<AnswerBody> {
    let (head, body) = answer.into_parts();
    let size = body.size();
    let is_empty = is_head || size.is_eof();
    let body = if is_empty { AnswerBody::empty() } else { AnswerBody::of(body, size) };
    let mut answer = http::Response::new(body);
    *answer.status_mut() = http::StatusCode::from_u16(head.status().as_u16()).unwrap_or_default();
    for (name, value) in head.headers() {
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = http::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            answer.headers_mut().append(name, value);
        }
    }
    if let BodySize::Sized(length) = size {
        answer.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    answer
}

/// The body of a request.
struct RequestBody(Incoming);

impl Stream for RequestBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let body = &mut self.get_mut().0;
        loop {
            match ready!(Pin::new(&mut *body).poll_frame(context))
                .map(|frame| frame.map(Frame::into_data))
            {
                None => return Poll::Ready(None),
                Some(Ok(Ok(data))) => return Poll::Ready(Some(Ok(data))),
                // Trailers.
                Some(Ok(Err(_))) => {}
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(PayloadError::Io(io::Error::other(error)))));
                }
            }
        }
    }
}

/// The body of an answer.
struct AnswerBody {
    /// `None` once the last byte was taken.
    body: Option<BoxBody>,
    /// The length of the rest, if it is known.
    left: Option<u64>,
}

/// The reason why an answer ends before its last byte.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off: {0}")]
struct BrokenAnswer(String);

impl AnswerBody {
    fn empty() -> Self {
        Self { body: None, left: Some(0) }
    }

    fn of(body: BoxBody, size: BodySize) -> Self {
        let left = if let BodySize::Sized(length) = size { Some(length) } else { None };
        Self { body: Some(body), left }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        let Self { body, left } = self.get_mut();
        let Some(open) = body else { return Poll::Ready(None) };
        let next = ready!(Pin::new(open).poll_next(context));
        if let (Some(Ok(piece)), Some(left)) = (&next, &mut *left) {
            *left = left.saturating_sub(piece.len() as u64);
        }
        if next.is_none() || *left == Some(0) {
            // Releases what the body holds.
            *body = None;
        }
        Poll::Ready(next.map(|piece| match piece {
            Ok(piece) => Ok(Frame::data(piece)),
            Err(error) => Err(BrokenAnswer(error.to_string())),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
