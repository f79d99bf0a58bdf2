//! Bodies of requests, with limits on size, receive time and total memory.

mod content;
mod inflate;
mod read;
mod source;

pub(crate) use self::{
    content::{Body, too_large},
    inflate::Encoding,
    read::{BodyReader, Bounds, read},
    source::{Buffer, Source},
};
