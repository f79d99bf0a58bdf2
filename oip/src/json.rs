//! A strict, single-pass JSON reader.
//!
//! The protocol needs three features that `serde_json` does not offer together: refusal of a
//! repeated key at any depth; exact conversion of a tensor's numbers to bytes, without a first pass
//! to find their ends; and an error code and position of its own for each mistake. Strings with
//! escapes are left to `serde_json`.

use std::{borrow::Cow, collections::HashSet, fmt};

use crate::{number::Number, problem::Problem};

/// Maximum nesting depth of arrays and objects.
const MAX_DEPTH: usize = 128;

/// Maximum number of keys in an object. The reader keeps the keys in memory to find repeated keys.
const MAX_KEYS: usize = 1024;

/// The kind of a JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    Text,
    Number,
    Bool,
    Null,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::Text => "a string",
            Self::Number => "a number",
            Self::Bool => "true or false",
            Self::Null => "null",
        })
    }
}

/// Reads one JSON text from beginning to end.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of `text`, which must be UTF-8.
    pub(crate) fn new(text: &'a [u8]) -> Result<Self, Problem> {
        let text = std::str::from_utf8(text)
            .map_err(|error| malformed(error.valid_up_to(), "is not UTF-8"))?;
        Ok(Self { text, at: 0, depth: 0 })
    }

    /// The number of unread bytes.
    pub(crate) fn remaining(&self) -> usize {
        self.text.len() - self.at
    }

    /// The kind of the next value.
    pub(crate) fn kind(&mut self) -> Result<Kind, Problem> {
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => Err(self.malformed("should be a value")),
            None => Err(self.malformed("is the end of the text, but should be a value")),
        }
    }

    /// Whether the next value is an array.
    #[inline]
    pub(crate) fn at_array(&mut self) -> bool {
        self.peek() == Some(b'[')
    }

    /// Reads an object. Calls `field` for each key; `field` must read the value.
    pub(crate) fn object(
        &mut self,
        mut field: impl FnMut(&mut Self, &str) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut keys = HashSet::new();
        self.members([b'{', b'}'], |reader| {
            let start = reader.at;
            let key = reader.text()?;
            reader.expect(b':', "should be ':'")?;
            field(reader, &key)?;
            if !keys.insert(key) {
                return Err(malformed(start, "repeats a key of the same object"));
            }
            if keys.len() > MAX_KEYS {
                return Err(malformed(start, "begins one key more than an object may have"));
            }
            Ok(())
        })
    }

    /// Reads an array. Calls `element` for each value; `element` must read the value.
    pub(crate) fn array(
        &mut self,
        element: impl FnMut(&mut Self) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.members([b'[', b']'], element)
    }

    /// Reads a string.
    pub(crate) fn text(&mut self) -> Result<Cow<'a, str>, Problem> {
        self.expect(b'"', "should be a string")?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2; // an escaped character does not end the string
                }
                Some(0..=0x1f) => return Err(self.malformed("is an unescaped control character")),
                Some(_) => self.at += 1,
                None => return Err(malformed(start, "begins an unterminated string")),
            }
        }
        let end = self.at;
        self.at += 1;
        if !escaped {
            return Ok(Cow::Borrowed(&self.text[start..end]));
        }
        serde_json::from_str(&self.text[start - 1..=end])
            .map(Cow::Owned)
            .map_err(|_| malformed(start, "begins a string with a malformed escape"))
    }

    /// Reads a number; `None` if the next value is not a number.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "once per element; a call would double its time")]
    pub(crate) fn number(&mut self) -> Option<Number<'a>> {
        self.peek();
        let number = Number::scan(&self.text[self.at..])?;
        self.at += number.text.len();
        Some(number)
    }

    /// Reads `true` or `false`.
    pub(crate) fn bool(&mut self) -> Result<bool, Problem> {
        let value = self.peek() == Some(b't');
        self.word(if value { "true" } else { "false" })?;
        Ok(value)
    }

    /// Reads `null` if present; returns whether `null` was present.
    pub(crate) fn null(&mut self) -> Result<bool, Problem> {
        let null = self.kind()? == Kind::Null;
        if null {
            self.word("null")?;
        }
        Ok(null)
    }

    /// Reads, checks and discards a value of any kind.
    pub(crate) fn skip(&mut self) -> Result<(), Problem> {
        match self.kind()? {
            Kind::Object => self.object(|reader, _| reader.skip()),
            Kind::Array => self.array(Self::skip),
            Kind::Text => self.text().map(drop),
            Kind::Number => match self.number() {
                Some(_) => Ok(()),
                None => Err(self.malformed("should be a number")),
            },
            Kind::Bool => self.bool().map(drop),
            Kind::Null => self.null().map(drop),
        }
    }

    /// Reads and checks a value of any kind. Returns its text.
    pub(crate) fn raw(&mut self) -> Result<&'a str, Problem> {
        self.peek();
        let start = self.at;
        self.skip()?;
        Ok(&self.text[start..self.at])
    }

    /// Checks that the rest of the text is white space.
    pub(crate) fn end(&mut self) -> Result<(), Problem> {
        match self.peek() {
            Some(_) => Err(self.malformed("follows the end of the JSON value")),
            None => Ok(()),
        }
    }

    /// Skips white space, and returns the next byte without consuming it.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    #[inline]
    fn expect(&mut self, byte: u8, otherwise: &str) -> Result<(), Problem> {
        if self.peek() != Some(byte) {
            return Err(self.malformed(otherwise));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads the comma-separated members between two brackets.
    #[inline]
    fn members(
        &mut self,
        [opening, closing]: [u8; 2],
        mut member: impl FnMut(&mut Self) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.expect(opening, "should be an object or an array")?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.malformed("is nested too deeply"));
        }
        if self.peek() != Some(closing) {
            member(self)?;
            while self.peek() == Some(b',') {
                self.at += 1;
                member(self)?; // a closing bracket after a comma is no member
            }
        }
        self.depth -= 1;
        self.expect(closing, "should be ',' or a closing bracket")
    }

    fn word(&mut self, word: &str) -> Result<(), Problem> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.malformed("should be a value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn malformed(&self, what: &str) -> Problem {
        malformed(self.at, what)
    }
}

fn malformed(at: usize, what: &str) -> Problem {
    Problem::bad("bad_json", format!("the JSON is malformed: byte {at} {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts(text: &[u8]) -> bool {
        Reader::new(text)
            .and_then(|mut reader| {
                reader.skip()?;
                reader.end()
            })
            .is_ok()
    }

    #[test]
    fn escapes_in_a_string_are_decoded() {
        let mut reader = Reader::new(br#" "a\"\\\u00e9\ud83d\ude00" "#).unwrap();
        assert_eq!(reader.text().unwrap(), "a\"\\é😀");
        reader.end().unwrap();
    }

    #[test]
    fn a_repeated_key_is_refused_at_any_depth_even_if_escaped() {
        for text in [r#"{"a":1,"a":2}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#] {
            assert!(!accepts(text.as_bytes()), "{text}");
        }
        assert!(accepts(br#"{"a":{"a":1},"b":{"a":1}}"#));
    }

    #[test]
    fn the_number_of_keys_of_an_object_is_limited() {
        let object = |keys: usize| {
            let keys: Vec<_> = (0..keys).map(|key| format!("\"{key}\":0")).collect();
            format!("{{{}}}", keys.join(","))
        };
        assert!(accepts(object(1024).as_bytes()));
        assert!(!accepts(object(1025).as_bytes()));
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        assert!(accepts(nested(128).as_bytes()));
        assert!(!accepts(nested(129).as_bytes()));
        assert!(!accepts("[".repeat(100_000).as_bytes()));
    }

    proptest! {
        #[test]
        fn accepts_the_same_texts_as_serde_json_except_repeated_keys(
            text in r#"([\[\]{},: "a1]|\\|\\u00|-|0|1\.5|1e3|e|\.|true|false|null|"k":|\\n){0,24}"#
        ) {
            // Only this reader refuses repeated keys.
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert!(theirs || !accepts(text.as_bytes()), "{}", text);
            if text.matches("\"k\"").count() < 2 && text.matches("\"a").count() < 2
                && text.matches("\"\"").count() < 2 {
                prop_assert_eq!(theirs, accepts(text.as_bytes()), "{}", text);
            }
        }
    }
}
