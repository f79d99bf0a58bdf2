//! Loss of the device while serving.

use crate::server::{Server, echo, post};

#[tokio::test]
async fn the_process_exits_with_status_71_when_its_device_is_lost() {
    let parameters = r#"parameters { key: "fatal_marker" value { string_value: "bang" } }"#;
    let mut server = Server::with_parameters(parameters, &[]).await;
    server.serves().await;
    let mut connection = server.connect().await;
    connection.send(post("", echo(b"bang"))).await;
    let status = server.program.wait().await.unwrap();
    assert_eq!(status.code(), Some(71), "{:?}", server.program.log());
}
