//! Redis servers that deny access, are too old, or change while programs run.

use std::{fs, net::SocketAddr, path::Path};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;

async fn denied(url: &str) -> String {
    match RedisBroker::connect(url).await {
        Err(BrokerError::Denied(cause)) => cause.to_string(),
        other => panic!("not denied: {:?}", other.err()),
    }
}

#[tokio::test]
async fn a_denied_user_is_named_with_the_address_and_the_remedy() {
    let server = RedisServer::start().await;
    server.ask("ACL SETUSER worker on >right ~* &* +@all").await.unwrap();
    server.ask("ACL SETUSER default resetpass").await.unwrap();
    let at = server.address();
    for (url, user) in [
        (format!("redis://worker:wrong@{at}"), "worker"),
        (format!("redis://stranger:right@{at}"), "stranger"),
        (format!("redis://{at}"), "default"),
    ] {
        let text = denied(&url).await;
        for part in [&at.to_string(), &format!("{user:?}"), "--redis-url-file"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("right@") && !text.contains("wrong@"), "{text}");
    }
}

#[tokio::test]
async fn a_command_without_permission_is_denied_and_counted() {
    let server = RedisServer::start().await;
    server.ask("ACL SETUSER gateway on >x ~* &* +@all -xadd").await.unwrap();
    let pair = Pair::new(&format!("redis://gateway:x@{}", server.address())).await;
    let before = batchfleet_broker::redis::denials().permission;
    let error = pair.submit().await.unwrap_err();
    assert_eq!(error.code(), "denied");
    let text = error.to_string();
    for part in [&server.address().to_string(), "\"gateway\"", "xadd", "redis-acl"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(batchfleet_broker::redis::denials().permission > before);
}

#[tokio::test]
async fn a_redis_that_is_too_old_is_refused() {
    for (server, part) in [
        (FakeRedis { knows_hello: false, version: "5.0.14" }, "older than 6.0"),
        (FakeRedis { knows_hello: true, version: "6.2.17" }, "version 6.2.17"),
    ] {
        let at = server.start().await;
        let text = refused(&format!("redis://{at}")).await;
        for part in [&at.to_string(), part, "7.0"] {
            assert!(text.contains(part), "{text}");
        }
    }
    let at = FakeRedis { knows_hello: true, version: "7.0.0" }.start().await;
    RedisBroker::connect(&format!("redis://{at}")).await.unwrap();
}

#[tokio::test]
async fn a_new_url_leads_all_connections_to_another_server() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("url");
    write(&file, &old.url());
    let address = RedisAddress { url_file: Some(file.clone()), ..RedisAddress::default() };
    let pair = Pair::new(address).await;
    pair.serves().await;
    // A file that is empty for a moment changes nothing.
    fs::write(&file, "").unwrap();
    sleep(Duration::from_millis(1500)).await;
    pair.serves().await;
    write(&file, &new.url());
    let moved = async {
        while !new.ask("PUBSUB CHANNELS bf:reply:*").await.unwrap().contains("bf:reply:") {
            // The subscription moves while its owner waits for replies.
            timeout(Duration::from_millis(50), pair.inbound()).await.ok();
        }
    };
    timeout(PATIENCE, moved).await.unwrap();
    let id = pair.submit_at_last().await;
    let batch = pair.claim_at_last().await;
    let undelivered = pair.consumer.settle(batch.into_iter().map(answer).collect()).await;
    assert_eq!(undelivered.unwrap(), 0);
    // The move of the subscription is an interruption.
    loop {
        if let Inbound::Replies(replies) = pair.receive().await {
            break assert_eq!(replies[0].id, id);
        }
    }
    assert_eq!(old.ask("PUBSUB CHANNELS bf:reply:*").await.unwrap(), "+PONG\r\n*0\r\n");
}

fn write(file: &Path, url: &str) {
    let fresh = file.with_extension("fresh");
    fs::write(&fresh, url).unwrap();
    fs::rename(fresh, file).unwrap();
}

/// A server that answers just enough for a program to connect.
#[derive(Clone, Copy)]
struct FakeRedis {
    knows_hello: bool,
    version: &'static str,
}

impl FakeRedis {
    async fn start(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.serve(stream));
            }
        });
        address
    }

    /// Answers the commands of one connection, which arrive as arrays of bulk strings.
    async fn serve(self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
            let words: usize = line.trim().trim_start_matches('*').parse().unwrap();
            line.clear();
            let mut command = Vec::new();
            for _ in 0..2 * words {
                stream.read_line(&mut line).await.unwrap();
                command.push(line.trim().to_owned());
                line.clear();
            }
            let answer = self.answer(&command[1]);
            stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
        }
    }

    fn answer(self, command: &str) -> String {
        let info = format!("redis_version:{}\r\nmaxmemory_policy:noeviction\r\n", self.version);
        match command {
            "HELLO" if !self.knows_hello => "-ERR unknown command `HELLO`\r\n".to_owned(),
            "HELLO" => "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned(),
            "ROLE" => "*1\r\n$6\r\nmaster\r\n".to_owned(),
            "INFO" => format!("${}\r\n{info}\r\n", info.len()),
            _ => "+OK\r\n".to_owned(),
        }
    }
}
