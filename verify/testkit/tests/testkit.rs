//! Tests of the tools that other tests use.

use std::os::unix::process::ExitStatusExt;

use batchfleet_testkit::{CuttingProxy, Program, RedisServer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn ping(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_redis_server_comes_back_on_the_same_port_and_dies_with_its_owner() {
    let mut server = RedisServer::start().await;
    let address = server.address();
    server.kill();
    assert!(TcpStream::connect(address).await.is_err());
    server.restart().await;
    assert_eq!(server.address(), address);
    assert_eq!(ping(&mut TcpStream::connect(address).await.unwrap()).await.unwrap(), "+PONG\r\n");
    drop(server);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_proxy_passes_cuts_refuses_and_resumes() {
    let server = RedisServer::start().await;
    let proxy = CuttingProxy::start(server.address()).await.unwrap();
    let connect = || TcpStream::connect(proxy.address());

    let mut first = connect().await.unwrap();
    assert_eq!(ping(&mut first).await.unwrap(), "+PONG\r\n");
    proxy.cut();
    assert!(ping(&mut first).await.is_err());
    assert!(ping(&mut connect().await.unwrap()).await.is_ok());
    proxy.refuse();
    assert!(ping(&mut connect().await.unwrap()).await.is_err());
    proxy.resume();
    assert!(ping(&mut connect().await.unwrap()).await.is_ok());
}

#[tokio::test]
async fn a_stalled_proxy_holds_bytes_back_until_it_resumes() {
    let server = RedisServer::start().await;
    let proxy = CuttingProxy::start(server.address()).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.stall();
    tokio::join!(
        async { assert_eq!(ping(&mut stream).await.unwrap(), "+PONG\r\n") },
        // `join!` polls this future once the ping waits for an answer.
        async { proxy.resume() },
    );
}

/// A program that logs its address, then a line that is not JSON, and waits for a signal.
fn program() -> anyhow::Result<Program> {
    let script = r#"
        trap 'exit 3' TERM
        echo '{"message":"listening","address":"127.0.0.1:7","port_name":"http"}' >&2
        echo "a panic" >&2
        while :; do sleep 0.01; done"#;
    Program::at("/bin/sh").args(["-c", script]).spawn()
}

#[tokio::test]
async fn the_log_of_a_program_is_read_and_the_program_terminated() {
    let mut program = program().unwrap();
    assert_eq!(program.address("http").await.unwrap(), "127.0.0.1:7");
    program.wait_for_log(|line| line == "a panic").await.unwrap();
    assert_eq!(program.terminate().await.unwrap().code(), Some(3));
    let error = program.address("admin").await.unwrap_err().to_string();
    assert!(error.contains("ended") && error.contains("a panic"), "{error}");
}

#[tokio::test]
async fn a_program_is_killed() {
    let mut program = program().unwrap();
    program.kill().await.unwrap();
    assert_eq!(program.wait().await.unwrap().signal(), Some(9));
}

#[tokio::test]
async fn a_missing_program_says_how_to_build_it() {
    let error = Program::named("no-such-program").unwrap().spawn().err().unwrap().to_string();
    assert!(error.ends_with("run `cargo build --workspace --bins`"), "{error}");
}
