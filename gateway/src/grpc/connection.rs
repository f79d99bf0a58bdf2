//! Adds gRPC to the threads of the server.

use std::{io, net::TcpListener, rc::Rc, sync::Arc, time::Duration};

use actix_server::ServerBuilder;
use actix_service::{fn_factory, fn_service};
use actix_web::web::Data;
use bytes::BytesMut;
use tokio::{net::TcpStream, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{call, messages::Messages, origin::Peer, thread::Thread};
use crate::{
    api::Api,
    door::Doors,
    http2::{self, ClientStream, Terms},
    tls::{self, Protocol, Tls},
};

/// What the threads that serve gRPC share.
#[derive(Clone)]
pub(crate) struct GrpcDoor {
    pub(crate) api: Data<Api>,
    pub(crate) doors: Doors,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Cancelled when the gateway begins to go away.
    pub(crate) shutdown: CancellationToken,
    /// How long a client may keep a connection; `None` for no limit.
    pub(crate) max_age: Option<Duration>,
}

/// Adds the listener of gRPC to the server.
///
/// # Errors
///
/// The listener cannot be used.
pub(crate) fn serve(
    builder: ServerBuilder,
    listener: TcpListener,
    server: GrpcDoor,
) -> io::Result<ServerBuilder> {
    let messages = Messages::new().map_err(io::Error::other)?;
    builder.listen("grpc", listener, move || {
        let (server, messages) = (server.clone(), messages.clone());
        fn_factory(move || {
            let (server, messages) = (server.clone(), messages.clone());
            async move {
                let thread = Thread::new(&server.api, server.doors.of_this_thread(), messages);
                let thread = Rc::new(thread.map_err(drop)?);
                Ok::<_, ()>(fn_service(move |stream: TcpStream| {
                    let (server, thread) = (server.clone(), thread.clone());
                    async move {
                        connection(stream, &server, thread).await;
                        Ok::<_, ()>(())
                    }
                }))
            }
        })
    })
}

/// Serves a connection until the client or the gateway closes it.
async fn connection(stream: TcpStream, server: &GrpcDoor, thread: Rc<Thread>) {
    let address = stream.peer_addr().ok();
    // Without this option the kernel would delay small answers.
    stream.set_nodelay(true).ok();
    let door = thread.door.clone();
    let Some(place) = door.enter(address) else { return };
    let opening =
        timeout(door.patience().keep_alive, tls::open(stream, server.tls.clone(), Protocol::Grpc));
    let transport = tokio::select! {
        opened = opening => match opened {
            Ok(Ok(transport)) => transport,
            _ => return,
        },
        closing = door.closes() => return closing.reason().map_or((), |reason| place.closed(reason)),
    };
    let certificate = transport.certificate_name();
    let peer = Rc::new(Peer { address, certificate });
    let stream = ClientStream::new(transport, BytesMut::new());
    let terms = Terms {
        door: &door,
        shutdown: &server.shutdown,
        max_age: server.max_age,
        // No client of gRPC reads the date.
        dates: false,
    };
    http2::serve(stream, &place, place.share(), &terms, |request, call| {
        call::answer(thread.clone(), peer.clone(), call, request)
    })
    .await;
}
