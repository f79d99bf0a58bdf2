//! Reads protobuf's text format, which `config.pbtxt` files use, into any type that implements
//! serde's `Deserialize`: a message becomes a struct, a `map` field a map, a repeated field a
//! sequence.
//!
//! The fields of the structs are the schema. An unknown field, a value of the wrong kind and a
//! field given twice are errors, as in protobuf's own parser.

mod access;
mod error;
mod read;
mod token;
mod tree;
mod value;

pub use self::error::SyntaxError;
pub(crate) use self::tree::parse;

#[cfg(test)]
mod tests;
