//! The HTTP front: routes, request heads, bodies and responses, over HTTP/1.1 and HTTP/2. Only `http`, `live` and the
//! threads of `server` depend on actix.

mod connection;
mod cors;
mod failure;
mod head;
mod infer;
mod media_type;
mod metadata;
mod model_control;
mod normal_path;
mod origin;
mod over_http2;
mod request_body;
mod response_body;
mod routes;
mod serve;
mod shared_memory;
mod span;
mod unread;
mod v1;

#[cfg(test)]
mod openapi;

pub(crate) use self::{
    failure::error_body,
    serve::{HttpDoor, serve},
};
