//! Reads a tree of fields into a type that implements serde's `Deserialize`.

use serde::{
    Deserialize,
    de::{Deserializer, Error, IntoDeserializer, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};

use super::{
    access::{Elements, Entries, Fields, Values, check_names},
    error::SyntaxError,
    tree::Message,
    value::One,
};

impl Message {
    /// Reads the message as a `T`.
    pub(crate) fn read<'de, T: Deserialize<'de>>(&'de self) -> Result<T, SyntaxError> {
        T::deserialize(Root(self))
    }
}

/// The outermost message.
struct Root<'de>(&'de Message);

/// Implements the methods of a `Deserializer` that read integers.
macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SyntaxError> {
            visitor.$visit(self.integer::<$type>()?)
        })*
    };
}

impl<'de> Deserializer<'de> for One<'de> {
    type Error = SyntaxError;

    integers!(
        deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    );

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SyntaxError> {
        visitor.visit_bool(self.boolean()?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SyntaxError> {
        visitor.visit_f64(self.float()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SyntaxError> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SyntaxError> {
        let variant: StrDeserializer<'_, SyntaxError> = self.variant(variants)?.into_deserializer();
        visitor.visit_enum(variant)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SyntaxError> {
        let message = self.message()?;
        check_names(message, self.name, fields)?;
        visitor.visit_map(Fields::of(message)).map_err(|error| error.or_line(self.line))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SyntaxError> {
        visitor.visit_some(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SyntaxError> {
        visitor.visit_unit()
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, SyntaxError> {
        Err(self.error("is of a kind that the reader lacks"))
    }

    forward_to_deserialize_any! {
        i8 i16 u8 u16 f32 char str bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map identifier
    }
}

/// Delegates the methods that read a single value.
macro_rules! single {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SyntaxError> {
            self.one()?.$method(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Values<'de> {
    type Error = SyntaxError;

    single!(
        deserialize_i32 deserialize_i64 deserialize_u32 deserialize_u64 deserialize_bool
        deserialize_f64 deserialize_string deserialize_ignored_any deserialize_any
    );

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SyntaxError> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SyntaxError> {
        self.one()?.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SyntaxError> {
        self.one()?.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SyntaxError> {
        visitor.visit_seq(Elements { name: self.name, values: self.contents.into_iter() })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SyntaxError> {
        visitor.visit_map(Entries::of(self)?)
    }

    forward_to_deserialize_any! {
        i8 i16 u8 u16 f32 char str bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct identifier
    }
}

impl<'de> Deserializer<'de> for Root<'de> {
    type Error = SyntaxError;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SyntaxError> {
        check_names(self.0, "a model's config", fields)?;
        visitor.visit_map(Fields::of(self.0)).map_err(|error| error.or_line(1))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, SyntaxError> {
        Err(SyntaxError::custom("the outermost message is read as a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
