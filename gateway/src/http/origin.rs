//! The origin of a request, read from the types of actix.

use std::{net::IpAddr, sync::Arc};

use actix_http::Request;
use actix_web::{HttpMessage, HttpRequest, http::header::HeaderValue};

use crate::{clients::RequestOrigin, tls::CertificateName};

impl RequestOrigin for HttpRequest {
    fn peer(&self) -> Option<IpAddr> {
        self.peer_addr().map(|peer| peer.ip())
    }

    fn header(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.headers().get_all(name).map(HeaderValue::as_bytes)
    }

    fn certificate(&self) -> Option<Arc<str>> {
        let of_request = || self.extensions().get::<CertificateName>().map(|name| name.0.clone());
        // A request over HTTP/2 carries the name itself.
        self.conn_data::<CertificateName>().map(|name| name.0.clone()).or_else(of_request)
    }
}

/// A request over HTTP/1.1 before it is routed.
impl RequestOrigin for Request {
    fn peer(&self) -> Option<IpAddr> {
        self.peer_addr().map(|peer| peer.ip())
    }

    fn header(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.head().headers().get_all(name).map(HeaderValue::as_bytes)
    }

    fn certificate(&self) -> Option<Arc<str>> {
        self.conn_data::<CertificateName>().map(|name| name.0.clone())
    }
}
