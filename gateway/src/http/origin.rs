//! The origin of a request, read from the request head of actix.

use std::net::IpAddr;

use actix_web::{dev::RequestHead, http::header::HeaderValue};

use crate::clients::RequestOrigin;

impl RequestOrigin for RequestHead {
    fn peer(&self) -> Option<IpAddr> {
        self.peer_addr.map(|peer| peer.ip())
    }

    fn header(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.headers().get_all(name).map(HeaderValue::as_bytes)
    }
}
