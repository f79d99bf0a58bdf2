//! Tests of connections over streams in memory, with the real HTTP server of actix.

use std::{
    cell::Cell,
    future::{Future, pending, poll_fn, ready},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, KeepAlive, Request, Response};
use actix_server::Server;
use actix_service::{ServiceFactory, fn_service};
use actix_web::body::BoxBody;
use batchfleet_service::metrics::MetricGroup;
use bytes::BytesMut;
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::{LocalSet, spawn_local, yield_now},
    time::{Instant, advance},
};

use super::{Exchange, LargeBody, serve};
use crate::{
    clients::{ClientSettings, Clients},
    door::{ConnectionLimits, Door, Patience},
    memory::MemoryBudget,
    metrics::{AccessMetrics, ConnectionMetrics},
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const KEEP_ALIVE: Duration = Duration::from_secs(75);
const STALL: Duration = Duration::from_secs(30);
/// The size of the answer to `GET /large`, in bytes.
const LARGE: usize = 1 << 20;
/// Bytes in flight between a client and the gateway.
const WIRE: usize = 4 << 10;

/// A gateway without sockets.
struct Gateway {
    door: Rc<Door>,
    budget: Arc<MemoryBudget>,
    metrics: ConnectionMetrics,
    /// Requests that the server has begun to answer.
    begun: Rc<Cell<usize>>,
    /// Requests to `/wait` whose clients have left.
    left: Rc<Cell<usize>>,
    /// Connections whose clients speak HTTP/2.
    http2: Rc<Cell<usize>>,
}

impl Gateway {
    fn new(most: usize, per_address: usize, bytes: usize) -> Self {
        let metrics = ConnectionMetrics::register(&Registry::new()).unwrap();
        let budget = MemoryBudget::new(bytes, metrics.bytes.clone());
        let access = AccessMetrics::register(&Registry::new()).unwrap();
        let clients = Clients::new(&ClientSettings::default(), false, &access).unwrap();
        let limits = ConnectionLimits::new(budget.clone(), per_address, clients, metrics.clone());
        let patience = Patience { keep_alive: KEEP_ALIVE, stall: STALL };
        let draining = Server::build().graceful_shutdown_signal();
        let door = Rc::new(Door::new(limits, most, patience, draining));
        Self {
            door,
            budget,
            metrics,
            begun: Rc::default(),
            left: Rc::default(),
            http2: Rc::default(),
        }
    }

    fn usual() -> Self {
        Self::new(100, 0, 64 << 20)
    }

    /// Opens a connection of the address 10.0.0.`last`.
    async fn connect(&self, last: u8) -> DuplexStream {
        let (client, stream) = duplex(WIRE);
        let (begun, left) = (self.begun.clone(), self.left.clone());
        let http = HttpService::build()
            .on_connect_ext(|exchange: &Exchange<DuplexStream>, data| {
                data.insert(exchange.answer());
                if let Some(body) = exchange.large_body() {
                    data.insert(body);
                }
            })
            .client_request_timeout(Duration::ZERO)
            .keep_alive(KeepAlive::Os)
            .h1_allow_half_closed(false)
            .h1(fn_service(move |request: Request| {
                begun.update(|begun| begun + 1);
                let left = left.clone();
                async move { Ok::<_, actix_web::Error>(answer(&request, &left).await) }
            }));
        let http = http.new_service(()).await.unwrap();
        let (door, peer) = (self.door.clone(), SocketAddr::from(([10, 0, 0, last], 1)));
        let http2 = self.http2.clone();
        spawn_local(async move {
            if serve(ready(Ok(stream)), Some(peer), &http, &door).await.is_some() {
                http2.update(|http2| http2 + 1);
            }
        });
        client
    }

    fn bytes(&self) -> i64 {
        self.metrics.bytes.get()
    }
}

/// Adds 1 to a number when it is dropped.
struct Count(Rc<Cell<usize>>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.update(|count| count + 1);
    }
}

/// `/large` has a large answer, `/sum` the sum of the request's bytes, and `/wait` reads the body and never answers.
async fn answer(request: &Request, left: &Rc<Cell<usize>>) -> Response<super::answer::WatchedBody> {
    let text = match request.path() {
        "/large" => "x".repeat(LARGE),
        "/sum" => {
            let body = read_large_body(request).await.unwrap();
            format!("{} bytes, sum {}, ok", body.len(), sum(&body))
        }
        "/wait" => {
            let _count = Count(left.clone());
            if read_large_body(request).await.is_ok() {
                pending::<()>().await;
            }
            "the body broke off".to_owned()
        }
        _ => "ok".to_owned(),
    };
    let watch = request.conn_data::<super::AnswerWatch>().unwrap().clone();
    Response::ok().set_body(BoxBody::new(text)).map_body(|_, body| watch.watch(body))
}

async fn read_large_body(request: &Request) -> io::Result<BytesMut> {
    let body = request.conn_data::<LargeBody>().expect("the body is large").clone();
    let mut bytes = BytesMut::with_capacity(body.length().try_into().unwrap());
    while poll_fn(|context| body.poll_read(context, &mut bytes)).await? > 0 {}
    assert!(!body.is_unread());
    Ok(bytes)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte)).sum()
}

/// A request with a body of `length` bytes.
fn post(path: &str, length: usize) -> (Vec<u8>, u64) {
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nContent-Length: {length}\r\n\r\n");
    let body: Vec<_> = (0..length).map(|at| at.to_le_bytes()[0].wrapping_mul(37)).collect();
    let sum = sum(&body);
    ([head.into_bytes(), body].concat(), sum)
}

/// Runs a test on one thread, as the gateway does.
async fn locally(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

/// Lets the gateway do all that it can.
async fn settle() {
    for _ in 0..1000 {
        yield_now().await;
    }
}

/// Reads one answer to `GET /`. Returns its head.
async fn read_answer(client: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\nok") {
        text.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

/// Reads to the end of the connection.
async fn read_rest(client: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    client.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_gets_one_request_answered_at_a_time() {
    locally(async {
        let gateway = Gateway::usual();
        let mut client = gateway.connect(1).await;
        let (mut from, mut to) = tokio::io::split(&mut client);
        let requests = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
        let sending = async { to.write_all(&requests).await.unwrap() };
        tokio::select! {
            () = sending => panic!("the gateway has read requests ahead of its answers"),
            () = settle() => {}
        }
        assert_eq!(gateway.begun.get(), 1);
        let held = usize::try_from(gateway.bytes()).unwrap();
        assert!(held > LARGE && held < LARGE + (64 << 10), "{held} bytes");
        let mut piece = vec![0; LARGE];
        from.read_exact(&mut piece).await.unwrap();
        settle().await;
        assert!(gateway.begun.get() <= 2, "{} requests", gateway.begun.get());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_disconnected_and_its_memory_is_free_again() {
    locally(async {
        let gateway = Gateway::usual();
        let mut client = gateway.connect(1).await;
        let started = Instant::now();
        client.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        settle().await;
        let mut got = 0;
        // 1 KiB a second: far too slow for 1 MiB.
        while let Ok(1..) = client.read(&mut [0; 1 << 10]).await {
            got += 1;
            advance(Duration::from_secs(1)).await;
        }
        let took = started.elapsed();
        assert!(took >= STALL && took < 2 * STALL, "{took:?} and {got} KiB");
        assert_eq!(gateway.bytes(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_head_has_a_time_limit_however_its_bytes_arrive() {
    locally(async {
        let gateway = Gateway::usual();
        let mut client = gateway.connect(1).await;
        for _ in 0..3 {
            client.write_all(GET).await.unwrap();
            read_answer(&mut client).await;
            advance(Duration::from_secs(20)).await;
        }
        let started = Instant::now();
        let (mut from, mut to) = tokio::io::split(client);
        let dripping = async {
            for byte in GET {
                to.write_u8(*byte).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let mut text = String::new();
        tokio::select! {
            () = dripping => panic!("the head was taken"),
            read = from.read_to_string(&mut text) => drop(read.unwrap()),
        }
        assert_eq!(started.elapsed().as_secs(), 5);
        assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("head_timeout"), "{text}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http2_is_recognized_before_its_first_request_only() {
    locally(async {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let gateway = Gateway::usual();
        let (mut slow, mut at_once) = (gateway.connect(1).await, gateway.connect(2).await);
        for byte in &PREFACE[..23] {
            slow.write_all(&[*byte]).await.unwrap();
            settle().await;
        }
        assert_eq!(gateway.http2.get(), 0);
        slow.write_all(&PREFACE[23..]).await.unwrap();
        at_once.write_all(PREFACE).await.unwrap();
        settle().await;
        assert_eq!(gateway.http2.get(), 2);

        let mut later = gateway.connect(3).await;
        later.write_all(&[GET, PREFACE].concat()).await.unwrap();
        let answers = read_rest(&mut later).await;
        assert!(
            answers.contains("HTTP/1.1 200 OK") && answers.contains("HTTP/1.1 400"),
            "{answers}"
        );

        let mut stuck = gateway.connect(4).await;
        stuck.write_all(&PREFACE[..10]).await.unwrap();
        assert!(read_rest(&mut stuck).await.starts_with("HTTP/1.1 408"));
        assert_eq!(gateway.http2.get(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_connection_closes_without_a_word_and_holds_little_memory() {
    locally(async {
        let gateway = Gateway::usual();
        let (mut unused, mut used) = (gateway.connect(1).await, gateway.connect(1).await);
        used.write_all(GET).await.unwrap();
        read_answer(&mut used).await;
        settle().await;
        assert!(gateway.bytes() <= 8 << 10, "{} bytes", gateway.bytes());
        let started = Instant::now();
        assert_eq!((read_rest(&mut unused).await, read_rest(&mut used).await), Default::default());
        assert_eq!(started.elapsed().as_secs(), KEEP_ALIVE.as_secs());
        settle().await;
        assert_eq!((gateway.bytes(), gateway.metrics.open.get()), (0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order_until_one_closes_the_connection() {
    locally(async {
        let gateway = Gateway::usual();
        let mut client = gateway.connect(1).await;
        let last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        client.write_all(&[GET, GET, last, GET, GET].concat()).await.unwrap();
        let answers = read_rest(&mut client).await;
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
        assert_eq!(gateway.begun.get(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_ends_where_its_framing_says_and_the_next_request_follows() {
    locally(async {
        let gateway = Gateway::usual();
        let mut client = gateway.connect(1).await;
        let chunked = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
            3\r\nabc\r\n0\r\nname: x\r\n\r\n";
        for request in [&chunked[..], GET] {
            client.write_all(request).await.unwrap();
            read_answer(&mut client).await;
        }
        // A handler has not read this body: the connection closes, and nothing else is answered.
        let ignored = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 30000\r\n\r\n";
        client.write_all(ignored).await.unwrap();
        let rest = read_rest(&mut client).await;
        assert_eq!(rest.matches("HTTP/1.1 ").count(), 1, "{rest}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn handlers_read_a_large_body_from_the_connection_and_the_next_request_follows() {
    locally(async {
        for (length, piece) in [(70_000, 1), (70_000, 3000), (65_537, 100_000), (3 << 20, 100_000)]
        {
            let gateway = Gateway::usual();
            let (mut from, mut to) = tokio::io::split(gateway.connect(1).await);
            let (request, sum) = post("/sum", length);
            let sending = [&request[..], GET, &request[..], GET].concat();
            spawn_local(async move {
                for piece in sending.chunks(piece) {
                    to.write_all(piece).await.unwrap();
                    yield_now().await;
                }
            });
            let mut text = String::new();
            while text.matches("\r\n\r\n").count() < 4 || !text.ends_with("ok") {
                let mut bytes = [0; 1 << 10];
                let read = from.read(&mut bytes).await.unwrap();
                assert!(read > 0, "{text}");
                text += str::from_utf8(&bytes[..read]).unwrap();
            }
            let answer = format!("{length} bytes, sum {sum}, ok");
            assert_eq!(text.matches(&answer).count(), 2, "{text}");
            assert_eq!(gateway.begun.get(), 4);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_during_or_after_its_large_body_is_noticed() {
    locally(async {
        let (request, _) = post("/wait", 100_000);
        for sent in [request.len() - 1, request.len()] {
            let gateway = Gateway::usual();
            let mut client = gateway.connect(1).await;
            client.write_all(&request[..sent]).await.unwrap();
            settle().await;
            assert_eq!((gateway.begun.get(), gateway.left.get()), (1, 0), "{sent}");
            drop(client);
            settle().await;
            assert_eq!(gateway.left.get(), 1, "{sent}");
            assert_eq!(gateway.bytes(), 0, "{sent}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn large_heads_leave_room_for_ordinary_requests() {
    locally(async {
        let gateway = Gateway::new(100, 0, 256 << 10);
        let head = [&GET[..GET.len() - 2], b"a: ", &vec![b'a'; 100 << 10]].concat();
        let mut large = Vec::new();
        for _ in 0..3 {
            let (from, mut to) = tokio::io::split(gateway.connect(1).await);
            let head = head.clone();
            spawn_local(async move { drop(to.write_all(&head).await) });
            large.push(from);
        }
        settle().await;
        assert!(gateway.bytes() <= 192 << 10, "{} bytes", gateway.bytes());
        let mut client = gateway.connect(2).await;
        client.write_all(GET).await.unwrap();
        read_answer(&mut client).await;
        let mut refused = String::new();
        large[2].read_to_string(&mut refused).await.unwrap();
        assert!(refused.contains("connection_bytes"), "{refused}");
        drop((client, large));
        settle().await;
        advance(Duration::from_secs(6)).await;
        settle().await;
        assert_eq!(gateway.bytes(), 0);
        assert_eq!(gateway.budget.share().bytes(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_replaces_the_one_that_has_waited_longest() {
    locally(async {
        let gateway = Gateway::new(8, 0, 64 << 20);
        let mut waiting = Vec::new();
        for _ in 0..7 {
            waiting.push(gateway.connect(1).await);
            settle().await;
        }
        let mut new = gateway.connect(2).await;
        new.write_all(GET).await.unwrap();
        read_answer(&mut new).await;
        assert_eq!(read_rest(&mut waiting[0]).await, "");
        for client in &mut waiting[1..] {
            client.write_all(GET).await.unwrap();
            read_answer(client).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_has_a_limit_of_connections_that_others_do_not_share() {
    locally(async {
        let gateway = Gateway::new(100, 2, 64 << 20);
        let mut open = vec![gateway.connect(1).await, gateway.connect(1).await];
        settle().await;
        let mut third = gateway.connect(1).await;
        assert_eq!(read_rest(&mut third).await, "");
        let mut other = gateway.connect(2).await;
        other.write_all(GET).await.unwrap();
        read_answer(&mut other).await;
        drop(open.pop());
        settle().await;
        let mut next = gateway.connect(1).await;
        next.write_all(GET).await.unwrap();
        read_answer(&mut next).await;
    })
    .await;
}
