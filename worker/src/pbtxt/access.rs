//! The fields of a message, the elements of a repeated field, and the entries of a map.

use serde::de::{
    DeserializeSeed, Error, IntoDeserializer, MapAccess, SeqAccess, value::StrDeserializer,
};

use super::{
    error::SyntaxError,
    tree::{Element, Message, Value},
    value::{Content, One, alternatives},
};

/// All values of one field.
pub(super) struct Values<'de> {
    pub(super) name: &'de str,
    /// The values, lists flattened.
    pub(super) contents: Vec<(usize, Content<'de>)>,
    /// The line of the first list.
    list: Option<usize>,
}

impl<'de> Values<'de> {
    /// The only value of a field that is not repeated.
    pub(super) fn one(self) -> Result<One<'de>, SyntaxError> {
        let name = self.name;
        if let Some(line) = self.list {
            return Err(SyntaxError::new(line, format!("{name} takes one value, not a list")));
        }
        match self.contents[..] {
            [(line, content)] => Ok(One { name, line, content }),
            [(first, _), (line, _), ..] => {
                Err(SyntaxError::new(line, format!("{name} is given twice, first in line {first}")))
            }
            [] => Err(SyntaxError::new(0, format!("{name} has no value"))),
        }
    }
}

/// Rejects fields that the message does not have.
pub(super) fn check_names(message: &Message, of: &str, known: &[&str]) -> Result<(), SyntaxError> {
    match message.fields.iter().find(|field| !known.contains(&field.name.as_str())) {
        Some(field) => {
            let alternatives = alternatives(&field.name, known);
            let problem = format!("{of} has no field {}: {alternatives}", field.name);
            Err(SyntaxError::new(field.element.line, problem))
        }
        None => Ok(()),
    }
}

/// The fields of a message, each with all its values.
pub(super) struct Fields<'de> {
    fields: std::vec::IntoIter<Values<'de>>,
    next: Option<Values<'de>>,
}

impl<'de> Fields<'de> {
    pub(super) fn of(message: &'de Message) -> Self {
        let mut fields: Vec<Values<'de>> = Vec::new();
        for field in &message.fields {
            let index = fields.iter().position(|known| known.name == field.name);
            let index = index.unwrap_or_else(|| {
                fields.push(Values { name: &field.name, contents: Vec::new(), list: None });
                fields.len() - 1
            });
            let Element { line, value } = &field.element;
            if let Value::List(elements) = value {
                fields[index].list.get_or_insert(*line);
                let written =
                    |element: &'de Element| (element.line, Content::Written(&element.value));
                fields[index].contents.extend(elements.iter().map(written));
            } else {
                fields[index].contents.push((*line, Content::Written(value)));
            }
        }
        Self { fields: fields.into_iter(), next: None }
    }
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = SyntaxError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, SyntaxError> {
        self.next = self.fields.next();
        let Some(values) = &self.next else { return Ok(None) };
        let name: StrDeserializer<'_, SyntaxError> = values.name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, SyntaxError> {
        let values = self.next.take();
        seed.deserialize(values.ok_or_else(|| SyntaxError::custom("a value before its name"))?)
    }
}

/// The elements of a repeated field.
pub(super) struct Elements<'de> {
    pub(super) name: &'de str,
    pub(super) values: std::vec::IntoIter<(usize, Content<'de>)>,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = SyntaxError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, SyntaxError> {
        let next = self.values.next();
        let one = |(line, content)| One { name: self.name, line, content };
        next.map(|next| seed.deserialize(one(next))).transpose()
    }
}

/// The entries of a map, each a message with `key` and `value`.
pub(super) struct Entries<'de> {
    entries: std::vec::IntoIter<(One<'de>, One<'de>)>,
    value: Option<One<'de>>,
}

impl<'de> Entries<'de> {
    pub(super) fn of(values: Values<'de>) -> Result<Self, SyntaxError> {
        let name = values.name;
        let mut entries: Vec<(One<'de>, One<'de>)> = Vec::new();
        for (line, content) in values.contents {
            let entry = One { name, line, content };
            let message = entry.message()?;
            check_names(message, name, &["key", "value"])?;
            let part = |wanted: &str| {
                let mut parts = message.fields.iter().filter(|field| field.name == wanted);
                match (parts.next(), parts.next()) {
                    (_, Some(second)) => Err(SyntaxError::new(
                        second.element.line,
                        format!("{name} has {wanted} twice in one entry"),
                    )),
                    (Some(field), None) => Ok(One {
                        name: &field.name,
                        line: field.element.line,
                        content: Content::Written(&field.element.value),
                    }),
                    (None, None) => Ok(One { name, line, content: Content::Absent }),
                }
            };
            let (key, value) = (part("key")?, part("value")?);
            if let Some((same, _)) = entries.iter().find(|(known, _)| is_same(known, &key)) {
                let problem = format!("{name} has the same key twice, first in line {}", same.line);
                return Err(SyntaxError::new(key.line, problem));
            }
            entries.push((key, value));
        }
        Ok(Self { entries: entries.into_iter(), value: None })
    }
}

fn is_same(one: &One<'_>, other: &One<'_>) -> bool {
    match (one.content, other.content) {
        (Content::Written(one), Content::Written(other)) => one == other,
        (Content::Absent, Content::Absent) => true,
        _ => false,
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = SyntaxError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, SyntaxError> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, SyntaxError> {
        let value = self.value.take();
        seed.deserialize(value.ok_or_else(|| SyntaxError::custom("a value before its key"))?)
    }
}
