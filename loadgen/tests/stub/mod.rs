//! An HTTP server; the test chooses its reaction to each request.

use std::{
    future::pending,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use batchfleet_loadgen::Target;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::Incoming,
    header::{CONNECTION, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

const HEAD_LENGTH: &str = "inference-header-content-length";

/// The reaction to a request.
#[derive(Clone, Copy)]
pub(crate) enum Reaction {
    /// Answers with the input.
    Echo,
    /// Answers with the input of the previous request.
    EchoOfLast,
    /// Answers with the input, whose numbers are raised to a thousandth of the largest number of the
    /// previous request: as a model that scales all requests of a batch together. Binary only.
    ScaleWithLast,
    /// Answers class 3 with a probability of the first pixel's grey value / 16.
    Classify,
    /// Answers with the input after a delay.
    Stall(Duration),
    /// Answers with the input and `connection: close`.
    Goodbye,
    /// Answers with this status.
    Refuse(u16),
    /// Closes the connection instead of answering.
    Cut,
    /// Never answers.
    Silence,
}

/// A running server; stopped when dropped.
pub(crate) struct Stub {
    port: u16,
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    react: Box<dyn Fn(usize) -> Reaction + Send + Sync>,
    requests: AtomicUsize,
    connections: AtomicUsize,
    last: Mutex<(HeaderMap, Bytes)>,
}

impl Stub {
    pub(crate) async fn start(react: impl Fn(usize) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            react: Box::new(react),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            last: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self { port, shared, task }
    }

    pub(crate) fn target(&self) -> Target {
        format!("http://127.0.0.1:{}", self.port).parse().unwrap()
    }

    /// The number of accepted connections.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        shared.connections.fetch_add(1, SeqCst);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| serve(Arc::clone(&shared), request));
            // A connection that is cut ends with an error.
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn serve(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    if request.method() == Method::GET {
        return Ok(metadata(request.uri().path()));
    }
    let number = shared.requests.fetch_add(1, SeqCst);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let this = (head.headers, body);
    let last = std::mem::replace(&mut *shared.last.lock().unwrap(), this.clone());
    Ok(match (shared.react)(number) {
        Reaction::Cut => return Err(io::Error::other("cut")),
        Reaction::Silence => pending().await,
        Reaction::Refuse(status) => refusal(status),
        Reaction::Echo => echo(&this),
        Reaction::EchoOfLast => echo(&last),
        Reaction::ScaleWithLast => scale(&this, &last),
        Reaction::Classify => classify(&this),
        Reaction::Stall(time) => {
            sleep(time).await;
            echo(&this)
        }
        Reaction::Goodbye => {
            let mut answer = echo(&this);
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            answer
        }
    })
}

/// The metadata of the only model, `stub`.
fn metadata(path: &str) -> Response<Full<Bytes>> {
    if path != "/v2/models/stub" {
        return refusal(404);
    }
    let input = json!({ "name": "x", "datatype": "FP32", "shape": [-1, 8] });
    let body = json!({ "name": "stub", "platform": "stub", "inputs": [input] }).to_string();
    Response::new(Full::new(body.into()))
}

fn refusal(status: u16) -> Response<Full<Bytes>> {
    let body = json!({ "error": "the stub refuses" }).to_string();
    let refusal = Response::builder().status(status).header(RETRY_AFTER, 1);
    refusal.body(Full::new(body.into())).unwrap()
}

/// The input as the model's output, in the encoding of the request.
fn echo(request: &(HeaderMap, Bytes)) -> Response<Full<Bytes>> {
    let (mut input, data) = input(request);
    input["name"] = json!("y");
    answer(&input, &data)
}

fn scale(this: &(HeaderMap, Bytes), last: &(HeaderMap, Bytes)) -> Response<Full<Bytes>> {
    let floats = |data: &[u8]| -> Vec<f32> {
        data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    };
    let (mut output, data) = input(this);
    output["name"] = json!("y");
    let least = floats(&input(last).1).into_iter().fold(0.0, f32::max) / 1000.0;
    let raised: Vec<u8> =
        floats(&data).into_iter().flat_map(|number| number.max(least).to_le_bytes()).collect();
    answer(&output, &raised)
}

fn classify(request: &(HeaderMap, Bytes)) -> Response<Full<Bytes>> {
    let (input, data) = input(request);
    let ink = match data.first_chunk() {
        Some(ink) => f64::from(f32::from_le_bytes(*ink)),
        None => input["data"][0].as_f64().unwrap(),
    };
    let mut probabilities = [0.0; 10];
    probabilities[3] = ink / 16.0;
    let shape = [1, 10];
    let output = json!({ "name": "probabilities", "datatype": "FP32", "shape": shape, "data": probabilities });
    answer(&output, &[])
}

/// The only input of a request, and the binary data, if any.
fn input((headers, body): &(HeaderMap, Bytes)) -> (Value, Bytes) {
    let head_length = headers.get(HEAD_LENGTH).map(|length| length.to_str().unwrap());
    let head_length = head_length.map_or(body.len(), |length| length.parse().unwrap());
    let head: Value = serde_json::from_slice(&body[..head_length]).unwrap();
    (head["inputs"][0].clone(), body.slice(head_length..))
}

fn answer(output: &Value, data: &[u8]) -> Response<Full<Bytes>> {
    let head = json!({ "model_name": "stub", "outputs": [output] }).to_string();
    let answer = Response::builder();
    let answer = if data.is_empty() { answer } else { answer.header(HEAD_LENGTH, head.len()) };
    answer.body(Full::new([head.as_bytes(), data].concat().into())).unwrap()
}
