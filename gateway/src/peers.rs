//! Other gateways: whether one of them reaches Redis while this gateway does not.

use std::{net::SocketAddr, time::Duration};

use actix_web::{HttpRequest, HttpResponse};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

/// The page of the admin port on which a gateway says whether it reaches Redis.
const PAGE: &str = "/redis";
/// How long another gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most gateways to ask at a time. A few answers are enough.
const ASKED: usize = 8;

/// Answers another gateway; `None` for other pages.
pub(crate) fn answer(request: &HttpRequest, reaches_redis: bool) -> Option<HttpResponse> {
    let mut response = match (request.path(), reaches_redis) {
        (PAGE, true) => HttpResponse::Ok(),
        (PAGE, false) => HttpResponse::ServiceUnavailable(),
        _ => return None,
    };
    Some(response.json(serde_json::json!({ "reachable": reaches_redis })))
}

/// Asks gateways at these admin ports. Returns whether any of them reaches Redis.
pub(crate) async fn any_reaches_redis(gateways: &[SocketAddr]) -> bool {
    let mut asked = JoinSet::new();
    for gateway in gateways.iter().take(ASKED) {
        asked.spawn(timeout(PATIENCE, reaches_redis(*gateway)));
    }
    while let Some(answer) = asked.join_next().await {
        if matches!(answer, Ok(Ok(Ok(true)))) {
            return true;
        }
    }
    false
}

async fn reaches_redis(gateway: SocketAddr) -> std::io::Result<bool> {
    const OK: &[u8] = b"HTTP/1.1 200 ";
    let mut stream = TcpStream::connect(gateway).await?;
    let request = format!("GET {PAGE} HTTP/1.1\r\nhost: {gateway}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; OK.len()];
    stream.read_exact(&mut status).await?;
    Ok(status == OK)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A gateway that answers one request with this status line.
    async fn gateway(status: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.unwrap();
            assert!(head.starts_with(b"GET /redis HTTP"));
            stream.write_all(format!("{status}\r\n\r\n").as_bytes()).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn one_gateway_that_reaches_redis_is_enough() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let cut_off = gateway("HTTP/1.1 503 Service Unavailable").await;
        assert!(!any_reaches_redis(&[gone, cut_off]).await);
        let well = gateway("HTTP/1.1 200 OK").await;
        assert!(any_reaches_redis(&[gone, gateway("HTTP/1.1 503 No").await, well]).await);
        assert!(!any_reaches_redis(&[]).await);
    }
}
