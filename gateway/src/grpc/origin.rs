//! Where a call comes from: its connection and its metadata.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, HeaderValue};

use crate::{clients::RequestOrigin, tls::CertificateName};

/// The other end of a connection.
pub(super) struct Peer {
    pub(super) address: Option<SocketAddr>,
    pub(super) certificate: Option<CertificateName>,
}

/// The origin of a call: its connection and its metadata.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) peer: &'a Peer,
    pub(super) metadata: &'a HeaderMap,
}

impl RequestOrigin for Origin<'_> {
    fn peer(&self) -> Option<IpAddr> {
        self.peer.address.map(|address| address.ip())
    }

    fn header(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.metadata.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }

    fn certificate(&self) -> Option<Arc<str>> {
        self.peer.certificate.as_ref().map(|name| name.0.clone())
    }
}
