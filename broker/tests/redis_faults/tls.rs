//! TLS: certificates of both sides, and errors about certificates.

use std::{fs, net::SocketAddr, path::PathBuf};

use batchfleet_broker::redis::RedisAddress;
use batchfleet_testkit::{Certificates, RedisServer};

use tokio::time::timeout;

use super::{PATIENCE, Pair, refused};

/// The address of a Redis with TLS, with the authority and the client certificate in `of`.
fn address(at: SocketAddr, of: &Certificates) -> RedisAddress {
    RedisAddress { identity: Some((of.certificate(), of.key())), ..trusting(at, of.ca()) }
}

fn trusting(at: SocketAddr, ca: PathBuf) -> RedisAddress {
    RedisAddress { ca: Some(ca), ..RedisAddress::from(&format!("rediss://{at}")) }
}

#[tokio::test]
async fn jobs_and_replies_go_over_tls() {
    let certificates = Certificates::new().unwrap();
    let (_server, at) = certificates.start_redis(false).await.unwrap();
    Pair::new(trusting(at, certificates.ca())).await.serves().await;
}

#[tokio::test]
async fn a_client_certificate_is_used_where_redis_requires_one() {
    let certificates = Certificates::new().unwrap();
    let (_server, at) = certificates.start_redis(true).await.unwrap();
    Pair::new(address(at, &certificates)).await.serves().await;
    let error = refused(trusting(at, certificates.ca())).await;
    assert!(error.contains("--redis-cert"), "{error}");
}

#[tokio::test]
async fn renewed_certificates_are_used_for_new_connections() {
    let certificates = Certificates::new().unwrap();
    let (mut server, at) = certificates.start_redis(true).await.unwrap();
    let pair = Pair::new(address(at, &certificates)).await;
    pair.serves().await;
    server.kill();
    certificates.renew().unwrap();
    server.restart().await;
    let id = pair.submit_at_last().await;
    assert_eq!(pair.claim_at_last().await[0].job.id, id);
}

#[tokio::test]
async fn a_certificate_of_an_untrusted_authority_is_refused_at_once() {
    let (certificates, stranger) = (Certificates::new().unwrap(), Certificates::new().unwrap());
    let (_server, at) = certificates.start_redis(false).await.unwrap();
    for address in [RedisAddress::from(&format!("rediss://{at}")), trusting(at, stranger.ca())] {
        let error = refused(address).await;
        assert!(error.contains("not trusted") && error.contains("--redis-ca"), "{error}");
    }
}

#[tokio::test]
async fn a_client_certificate_that_redis_refuses_is_reported() {
    let (certificates, stranger) = (Certificates::new().unwrap(), Certificates::new().unwrap());
    let (_server, at) = certificates.start_redis(true).await.unwrap();
    let error =
        refused(RedisAddress { ca: Some(certificates.ca()), ..address(at, &stranger) }).await;
    assert!(error.contains("--redis-cert"), "{error}");
}

#[tokio::test]
async fn tls_on_one_side_only_is_reported() {
    let certificates = Certificates::new().unwrap();
    let plain = RedisServer::start().await;
    let error =
        timeout(PATIENCE, refused(trusting(plain.address(), certificates.ca()))).await.unwrap();
    assert!(error.contains("speaks no TLS"), "{error}");
    let (_server, at) = certificates.start_redis(false).await.unwrap();
    let error = timeout(PATIENCE, refused(&format!("redis://{at}"))).await.unwrap();
    assert!(error.contains("begins with rediss"), "{error}");
}

#[tokio::test]
async fn missing_and_mixed_up_files_are_named() {
    let (certificates, other) = (Certificates::new().unwrap(), Certificates::new().unwrap());
    let (_server, at) = certificates.start_redis(false).await.unwrap();
    let missing = refused(trusting(at, "/nowhere/ca.pem".into())).await;
    assert!(missing.contains("--redis-ca /nowhere/ca.pem: No such file"), "{missing}");
    let mixed_up = refused(trusting(at, certificates.key())).await;
    assert!(mixed_up.contains("key.pem: no CERTIFICATE in it, as PEM"), "{mixed_up}");
    fs::write(other.ca(), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    let broken = refused(trusting(at, other.ca())).await;
    assert!(broken.contains("PEM"), "{broken}");
    let identity = Some((certificates.certificate(), other.key()));
    let foreign = RedisAddress { identity, ..address(at, &certificates) };
    assert!(refused(foreign).await.contains("KeyMismatch"));
}
