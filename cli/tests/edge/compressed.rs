//! Requests with compressed bodies.

use std::io::Write;

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};

use crate::server::{Server, echo, post};

fn gzip(plain: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn zlib(plain: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain.as_ref()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn compressed_json_and_tensors_get_the_same_answers_as_plain_ones() {
    let server = Server::start(&[]).await;
    let json = echo(&[1, 2, 3]);
    let binary = r#"{"inputs":[{"name":"INPUT0","datatype":"UINT8","shape":[1,3],"parameters":{"binary_data_size":3}}]}"#;
    let length = format!("inference-header-content-length: {}\r\n", binary.len());
    let binary = [binary.as_bytes(), &[4, 5, 6]].concat();
    for (encoding, encode) in [("gzip", gzip as fn(Vec<u8>) -> Vec<u8>), ("deflate", zlib)] {
        let header = format!("content-encoding: {encoding}\r\n");
        let answer = server.ask(post(&header, encode(json.clone().into()))).await;
        assert_eq!(answer.outputs(), [1, 2, 3]);
        assert!(!answer.headers.contains_key("content-encoding"));
        let answer = server.ask(post(&(header + &length), encode(binary.clone()))).await;
        assert_eq!(answer.outputs(), [4, 5, 6], "the header holds the length of the inflated JSON");
    }
    server.balances().await;
}

#[tokio::test]
async fn b20_a_body_that_contradicts_its_content_encoding_is_refused() {
    let server = Server::start(&[]).await;
    let whole = gzip(echo(&[1]));
    for wrong in [
        echo(&[1]).into_bytes(),
        whole[..whole.len() - 1].to_vec(),
        [&whole[..], &whole[..]].concat(),
        zlib(echo(&[1])),
    ] {
        let answer = server.ask(post("content-encoding: gzip\r\n", wrong)).await;
        assert_eq!((answer.status, answer.code()), (400, "bad_encoding"));
    }
    let answer = server.ask(post("content-encoding: gzip\r\n", gzip("{"))).await;
    assert_eq!((answer.status, answer.code()), (400, "bad_json"));
    server.serves().await;
    server.balances().await;
}

#[tokio::test]
async fn b21_other_encodings_are_refused_with_the_supported_ones() {
    let server = Server::start(&[]).await;
    for encoding in ["zstd", "br", "foo", "gzip, gzip", "gzip\r\ncontent-encoding: gzip"] {
        let header = format!("content-encoding: {encoding}\r\n");
        let answer = server.ask(post(&header, gzip(echo(&[1])))).await;
        assert_eq!((answer.status, answer.code()), (415, "unsupported_media_type"), "{encoding}");
        assert_eq!(answer.headers["accept-encoding"], "gzip, deflate");
    }
    server.balances().await;
}
