//! The HTTP front: routes, request heads, bodies and responses. Only `http` and `live` depend on
//! actix.

mod access;
mod connection;
mod cors;
mod failure;
mod head;
mod infer;
mod media_type;
mod metadata;
mod normal_path;
mod origin;
mod response_body;
mod routes;
mod server;
mod span;
mod unread;

#[cfg(test)]
mod openapi;

pub(crate) use self::{
    failure::error_body,
    server::{HttpServer, listen},
};
