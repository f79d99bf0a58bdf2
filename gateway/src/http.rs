//! The HTTP front: routes, heads, bodies, answers. With `live`, the only part that knows actix.

mod failure;
mod head;
mod infer;
mod metadata;
mod origin;
mod paced;
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
