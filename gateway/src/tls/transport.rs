//! A connection of a client, with or without TLS.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::certificate;
use crate::memory::MemoryShare;

/// The name in the certificate of a client: the common name of the subject, or else its first
/// alternative name.
#[derive(Clone, Debug)]
pub(crate) struct CertificateName(pub(crate) Arc<str>);

/// A connection of a client.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Plain HTTP.
    Plain(TcpStream),
    /// HTTPS, after the handshake.
    Tls(Box<TlsTransport>),
}

/// A TLS connection, the name in the certificate of its client, and its memory.
#[derive(Debug)]
pub(crate) struct TlsTransport {
    stream: TlsStream<TcpStream>,
    name: Option<CertificateName>,
    _share: MemoryShare,
}

impl Transport {
    /// A connection after the handshake.
    pub(super) fn tls(stream: TlsStream<TcpStream>, share: MemoryShare) -> Self {
        let presented = stream.get_ref().1.peer_certificates();
        let certificate = presented.and_then(<[_]>::first);
        let name = certificate.and_then(|one| certificate::name(one)).map(CertificateName);
        Self::Tls(Box::new(TlsTransport { stream, name, _share: share }))
    }

    /// The name in the certificate that the client presented in the handshake.
    pub(crate) fn certificate_name(&self) -> Option<CertificateName> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.name.clone(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(tls) => tls.stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(context),
        }
    }
}
