//! A device that is lost while it serves.

use crate::server::{Server, echo, post};

#[tokio::test]
async fn a_lost_device_ends_the_process_with_a_status_of_its_own() {
    let parameters = r#"parameters { key: "fatal_marker" value { string_value: "bang" } }"#;
    let mut server = Server::with_parameters(parameters, &[]).await;
    server.serves().await;
    let mut connection = server.connect().await;
    connection.send(post("", echo(b"bang"))).await;
    let status = server.program.wait().await.unwrap();
    assert_eq!(status.code(), Some(71), "{:?}", server.program.log());
}
