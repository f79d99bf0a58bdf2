//! Parses the part of protobuf's text format that `config.pbtxt` files use, without a schema.
//!
//! The elements of a repeated field may be written one by one or as a list; either way, each
//! element becomes a [`Field`]. Fields are interpreted only when they are read, so unknown fields
//! are ignored.

use std::{iter::Peekable, str::Chars, str::FromStr};

/// A syntax error and its line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct SyntaxError {
    /// The line, counted from 1.
    pub line: usize,
    /// What the parser found or expected on the line.
    pub problem: String,
}

/// Maximum nesting depth of messages, as in protobuf's own parser. Each level uses some of the
/// stack.
const DEEPEST: usize = 100;

/// The fields of a message, in the order they were written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Message(Vec<Field>);

/// One field, or one element of a repeated field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Field {
    name: String,
    line: usize,
    value: Value,
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    /// A number, a boolean or the name of an enum's value.
    Word(String),
    /// A quoted string.
    Text(String),
    Message(Message),
}

impl Message {
    /// Every element of a repeated field.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Field> {
        self.0.iter().filter(move |field| field.name == name)
    }

    /// A field that is not repeated. The last occurrence counts, as in protobuf.
    pub(crate) fn one(&self, name: &str) -> Option<&Field> {
        self.0.iter().rfind(|field| field.name == name)
    }
}

impl Field {
    /// The nested message.
    pub(crate) fn message(&self) -> Result<&Message, SyntaxError> {
        match &self.value {
            Value::Message(message) => Ok(message),
            _ => Err(self.error("is not a message")),
        }
    }

    /// The quoted string.
    pub(crate) fn text(&self) -> Result<&str, SyntaxError> {
        match &self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.error("is not a quoted string")),
        }
    }

    /// The name of an enum's value.
    pub(crate) fn word(&self) -> Result<&str, SyntaxError> {
        match &self.value {
            Value::Word(word) => Ok(word),
            _ => Err(self.error("is not a plain word")),
        }
    }

    /// The number.
    pub(crate) fn number<T: FromStr>(&self) -> Result<T, SyntaxError> {
        self.word()?.parse().map_err(|_| self.error("is not a number of the right range"))
    }

    /// An error about this field.
    pub(crate) fn error(&self, problem: &str) -> SyntaxError {
        SyntaxError { line: self.line, problem: format!("{} {problem}", self.name) }
    }
}

/// Parses a complete text.
pub(crate) fn parse(text: &str) -> Result<Message, SyntaxError> {
    let mut parser = Parser { rest: text.chars().peekable(), line: 1, depth: 0 };
    let message = parser.message()?;
    match parser.peek() {
        None => Ok(message),
        Some(other) => Err(parser.error(format!("unexpected {other:?}"))),
    }
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    depth: usize,
}

impl Parser<'_> {
    /// Parses fields up to a closing bracket, which is left to the caller, or the end of the text.
    fn message(&mut self) -> Result<Message, SyntaxError> {
        let mut fields = Vec::new();
        while let Some(next) = self.peek() {
            match next {
                '}' | '>' => break,
                ',' | ';' => self.advance(),
                _ => self.field(&mut fields)?,
            }
        }
        Ok(Message(fields))
    }

    fn field(&mut self, fields: &mut Vec<Field>) -> Result<(), SyntaxError> {
        let line = self.line;
        let name = self.take_word()?;
        let colon = self.take_if(':');
        if self.take_if('[') {
            while !self.take_if(']') {
                fields.push(Field { name: name.clone(), line: self.line, value: self.value()? });
                self.take_if(',');
            }
            return Ok(());
        }
        if !colon && !matches!(self.peek(), Some('{' | '<')) {
            return Err(self.error(format!("expected ':' or '{{' after {name}")));
        }
        fields.push(Field { name, line, value: self.value()? });
        Ok(())
    }

    fn value(&mut self) -> Result<Value, SyntaxError> {
        match self.peek() {
            Some(open @ ('{' | '<')) => {
                self.advance();
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err(self.error(format!("nested deeper than {DEEPEST} messages")));
                }
                let message = self.message()?;
                self.depth -= 1;
                let close = if open == '{' { '}' } else { '>' };
                if self.take_if(close) {
                    Ok(Value::Message(message))
                } else {
                    Err(self.error(format!("expected {close:?}")))
                }
            }
            Some('"' | '\'') => {
                let mut text = String::new();
                while let Some(quote @ ('"' | '\'')) = self.peek() {
                    self.advance();
                    self.quoted(quote, &mut text)?;
                }
                Ok(Value::Text(text))
            }
            _ => self.take_word().map(Value::Word),
        }
    }

    /// Reads the rest of a string after its opening quote.
    fn quoted(&mut self, quote: char, text: &mut String) -> Result<(), SyntaxError> {
        loop {
            match self.rest.next() {
                None | Some('\n') => return Err(self.error("a string has no end".to_owned())),
                Some('\\') => text.push(match self.rest.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(other @ ('\\' | '"' | '\'')) => other,
                    other => return Err(self.error(format!("unknown escape \\{other:?}"))),
                }),
                Some(other) if other == quote => return Ok(()),
                Some(other) => text.push(other),
            }
        }
    }

    fn take_word(&mut self) -> Result<String, SyntaxError> {
        let mut word = String::new();
        self.peek();
        while let Some(next) =
            self.rest.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '.'))
        {
            word.push(next);
        }
        if !word.is_empty() {
            return Ok(word);
        }
        Err(match self.peek() {
            Some(other) => self.error(format!("unexpected {other:?}")),
            None => self.error("the text ends too early".to_owned()),
        })
    }

    fn take_if(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.advance();
        }
        found
    }

    /// The next character that is neither white space nor part of a comment.
    fn peek(&mut self) -> Option<char> {
        loop {
            match *self.rest.peek()? {
                '#' => while self.rest.next_if(|&c| c != '\n').is_some() {},
                '\n' => {
                    self.line += 1;
                    self.advance();
                }
                other if other.is_whitespace() => self.advance(),
                other => return Some(other),
            }
        }
    }

    fn advance(&mut self) {
        self.rest.next();
    }

    fn error(&self, problem: String) -> SyntaxError {
        SyntaxError { line: self.line, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_nested_messages_lists_and_comments() {
        let message = parse(
            "name: \"a\" 'b' # joined\nmax_batch_size: 8\ninput [ { name: \"X\" dims: [ -1, 3 ] },\n\
             { name: \"Y\", dims: 1; dims: 2 } ]\nlatest < num_versions: 2 >",
        )
        .unwrap();
        assert_eq!(message.one("name").unwrap().text(), Ok("ab"));
        assert_eq!(message.one("max_batch_size").unwrap().number(), Ok(8_u32));
        let dims: Vec<Vec<i64>> = message
            .all("input")
            .map(|input| {
                let dims = input.message().unwrap().all("dims");
                dims.map(|dim| dim.number().unwrap()).collect()
            })
            .collect();
        assert_eq!(dims, [vec![-1, 3], vec![1, 2]]);
        let latest = message.one("latest").unwrap().message().unwrap();
        assert_eq!(latest.one("num_versions").unwrap().number(), Ok(2_u32));
    }

    #[test]
    fn an_error_names_its_line() {
        for (text, line) in [
            ("a: 1\nb 2", 2),
            ("a {\n b: 1\n", 3),
            ("a: \"open\nb: 1", 1),
            ("\n\n}", 3),
            ("a: [1, 2", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text:?}");
        }
    }

    #[test]
    fn a_field_of_the_wrong_kind_is_named() {
        let message = parse("\nmax_batch_size: many").unwrap();
        let error = message.one("max_batch_size").unwrap().number::<u32>().unwrap_err();
        assert_eq!(error.to_string(), "line 2: max_batch_size is not a number of the right range");
    }

    #[test]
    fn messages_nested_too_deep_are_refused_and_do_not_overflow_the_stack() {
        let nested = |depth: usize| "a{".repeat(depth) + &"}".repeat(depth);
        assert!(parse(&nested(DEEPEST)).is_ok());
        let error = parse(&nested(1_000_000)).unwrap_err();
        assert_eq!(error.to_string(), "line 1: nested deeper than 100 messages");
        assert!(parse(&nested(1).repeat(1000)).is_ok(), "one after the other");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_or_hang(text in "[a-c:{}\\[\\]<>\"'#,;\n\\\\ 1-]{0,64}") {
            drop(parse(&text));
        }
    }
}
