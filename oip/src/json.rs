//! A strict JSON reader that goes over the text once.
//!
//! `serde_json` reads a body into types or keeps parts of it for later, but cannot do three things
//! the protocol needs at once: refuse a key that stands twice, at any depth; turn a tensor's
//! numbers into bytes exactly and without a first pass that only looks for their end; and say, with
//! the right code, what is wrong where. Escaped strings are still left to it.

use std::{borrow::Cow, collections::HashSet, fmt};

use super::{Problem, number::Number};

/// How deeply arrays and objects may be nested.
const MAX_DEPTH: usize = 128;

/// The most keys of one object; they are remembered to find one that is repeated.
const MAX_KEYS: usize = 1024;

/// What kind of value comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
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

/// Reads one JSON text from front to back.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the front of `text`, which must be UTF-8.
    pub(super) fn new(text: &'a [u8]) -> Result<Self, Problem> {
        let text = std::str::from_utf8(text)
            .map_err(|error| malformed(error.valid_up_to(), "is not UTF-8"))?;
        Ok(Self { text, at: 0, depth: 0 })
    }

    /// How many bytes are still unread.
    pub(super) fn remaining(&self) -> usize {
        self.text.len() - self.at
    }

    /// The kind of the next value.
    pub(super) fn kind(&mut self) -> Result<Kind, Problem> {
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => Err(self.malformed("should be a value")),
            None => Err(self.malformed("is the end of the text, where a value should be")),
        }
    }

    /// Whether the next value is an array whose first member is an array again.
    pub(super) fn at_nested_array(&self) -> bool {
        let mut ahead = self.clone();
        ahead.expect(b'[', "").is_ok() && ahead.peek() == Some(b'[')
    }

    /// Reads an object, calling `field` at the value of each key; `field` must read it.
    pub(super) fn object(
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
                return Err(malformed(start, "begins one key too many for one object"));
            }
            Ok(())
        })
    }

    /// Reads an array, calling `element` at each of its values; `element` must read it.
    pub(super) fn array(
        &mut self,
        element: impl FnMut(&mut Self) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.members([b'[', b']'], element)
    }

    /// Reads a string.
    pub(super) fn text(&mut self) -> Result<Cow<'a, str>, Problem> {
        self.expect(b'"', "should be a string")?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2; // whatever is escaped does not end the string
                }
                Some(0..=0x1f) => return Err(self.malformed("is a bare control character")),
                Some(_) => self.at += 1,
                None => return Err(malformed(start, "begins a string that has no end")),
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

    /// Reads a number; `None` where none comes next.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "once per element; a call would double its time")]
    pub(super) fn number(&mut self) -> Option<Number<'a>> {
        self.peek();
        let number = Number::scan(&self.text[self.at..])?;
        self.at += number.text.len();
        Some(number)
    }

    /// Reads `true` or `false`.
    pub(super) fn bool(&mut self) -> Result<bool, Problem> {
        let value = self.peek() == Some(b't');
        self.word(if value { "true" } else { "false" })?;
        Ok(value)
    }

    /// Reads `null` if it comes next, and says whether it did.
    pub(super) fn null(&mut self) -> Result<bool, Problem> {
        let null = self.kind()? == Kind::Null;
        if null {
            self.word("null")?;
        }
        Ok(null)
    }

    /// Reads a value of any kind, as strictly as one that is wanted.
    pub(super) fn skip(&mut self) -> Result<(), Problem> {
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

    /// Nothing but white space may be left.
    pub(super) fn end(&mut self) -> Result<(), Problem> {
        match self.peek() {
            Some(_) => Err(self.malformed("follows the end of the JSON value")),
            None => Ok(()),
        }
    }

    /// The next byte that is not white space, unread.
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

    /// Reads what stands between two brackets, separated by commas.
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
                member(self)?; // which a closing bracket is not
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
    fn a_string_keeps_what_it_says_through_escapes() {
        let mut reader = Reader::new(br#" "a\"\\\u00e9\ud83d\ude00" "#).unwrap();
        assert_eq!(reader.text().unwrap(), "a\"\\é😀");
        reader.end().unwrap();
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_at_any_depth_even_when_one_is_escaped() {
        for text in [r#"{"a":1,"a":2}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#] {
            assert!(!accepts(text.as_bytes()), "{text}");
        }
        assert!(accepts(br#"{"a":{"a":1},"b":{"a":1}}"#));
    }

    #[test]
    fn an_object_of_endless_keys_is_refused() {
        let object = |keys: usize| {
            let keys: Vec<_> = (0..keys).map(|key| format!("\"{key}\":0")).collect();
            format!("{{{}}}", keys.join(","))
        };
        assert!(accepts(object(1024).as_bytes()));
        assert!(!accepts(object(1025).as_bytes()));
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        assert!(accepts(nested(128).as_bytes()));
        assert!(!accepts(nested(129).as_bytes()));
        assert!(!accepts("[".repeat(100_000).as_bytes()));
    }

    proptest! {
        #[test]
        fn accepts_what_serde_json_accepts(
            text in r#"([\[\]{},: "a1]|\\|\\u00|-|0|1\.5|1e3|e|\.|true|false|null|"k":|\\n){0,24}"#
        ) {
            // Repeated keys are the one thing only we refuse.
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert!(theirs || !accepts(text.as_bytes()), "{}", text);
            if text.matches("\"k\"").count() < 2 && text.matches("\"a").count() < 2
                && text.matches("\"\"").count() < 2 {
                prop_assert_eq!(theirs, accepts(text.as_bytes()), "{}", text);
            }
        }
    }
}
